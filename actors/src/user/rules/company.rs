//! Company: each session of a user hears whether there are others.

use super::{Output, User};
use crate::packet::Tell;

impl User {
    /// Tells the sessions what has changed since there were `before` of them: all, or only one that has just attached.
    pub(super) fn tell_company(&self, before: usize, attaching: bool, out: &mut Vec<Output>) {
        let others = self.sessions.len() > 1;
        let told = if others != (before > 1) {
            &self.sessions[..]
        } else if attaching && others {
            &self.sessions[self.sessions.len() - 1..]
        } else {
            &[]
        };
        let tell = |life| Tell::Company { life, others };
        out.extend(told.iter().map(|a| Output::Tell(a.session, tell(a.life))));
    }
}
