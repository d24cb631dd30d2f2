//! People: whom the user blocks, who may see them, and what they say of themselves; repeated until it is answered.

use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::said::{Fault, LastSeen, Profile};
use super::{Client, Command, gone};

impl Client {
    /// Takes no more messages from a user, and shows them neither presence nor typing. Groups stay as they are.
    ///
    /// # Errors
    /// Nobody has this name, it is the user's own, or too many are blocked.
    pub async fn block(&self, user: &str) -> Result<(), Fault> {
        self.until_answered("block", json!({"user": user})).await.map(drop)
    }

    /// Blocks a user no longer.
    ///
    /// # Errors
    /// No answer in time.
    pub async fn unblock(&self, user: &str) -> Result<(), Fault> {
        self.until_answered("unblock", json!({"user": user})).await.map(drop)
    }

    /// Whom the user blocks, in order.
    ///
    /// # Errors
    /// No answer in time.
    pub async fn blocked(&self) -> Result<Vec<String>, Fault> {
        #[derive(serde::Deserialize)]
        struct Blocked {
            users: Vec<String>,
        }
        let blocked: Blocked = self.told("blocked", json!({})).await?;
        Ok(blocked.users)
    }

    /// Who may see whether the user is there, and when they last were.
    ///
    /// # Errors
    /// No answer in time.
    pub async fn last_seen_is_shown_to(&self) -> Result<LastSeen, Fault> {
        self.settings(json!({})).await
    }

    /// Says who may see it. Who hides from everybody sees nobody either.
    ///
    /// # Errors
    /// It was changed too often, or no answer in time.
    pub async fn show_last_seen_to(&self, whom: LastSeen) -> Result<LastSeen, Fault> {
        self.settings(json!({"last_seen": whom})).await
    }

    /// What the user says of themselves.
    ///
    /// # Errors
    /// No answer in time.
    pub async fn profile(&self) -> Result<Profile, Fault> {
        self.told("profile", json!({})).await
    }

    /// Says what is given of the user from now on, and removes what is an empty text; all of it afterwards.
    ///
    /// # Errors
    /// A text is too long, or has control characters.
    pub async fn describe(&self, profile: &Profile) -> Result<Profile, Fault> {
        self.told("profile", json!(profile)).await
    }

    async fn settings(&self, d: Value) -> Result<LastSeen, Fault> {
        #[derive(serde::Deserialize)]
        struct Settings {
            last_seen: LastSeen,
        }
        let settings: Settings = self.told("settings", d).await?;
        Ok(settings.last_seen)
    }

    async fn told<T: serde::de::DeserializeOwned>(&self, op: &str, d: Value) -> Result<T, Fault> {
        let ok = self.until_answered(op, d).await?;
        let unexpected = |e: serde_json::Error| Fault::here("internal", &e.to_string(), false);
        serde_json::from_value(ok).map_err(unexpected)
    }

    /// Asks, on the next socket, too, and after a refusal that may pass, for a minute.
    pub(super) async fn until_answered(&self, op: &str, d: Value) -> Result<Value, Fault> {
        let (reply, answer) = oneshot::channel();
        self.command(Command::Insist { op: op.to_owned(), d, reply });
        answer.await.unwrap_or_else(|_| Err(gone()))
    }
}
