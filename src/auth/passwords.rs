//! Passwords: turns them into hashes and tells right from wrong, without stopping everything else.
//!
//! Argon2id (RFC 9106) with the parameters of OWASP: 19 MiB and two passes, about 20 ms of a core. So few run at once, on
//! threads that may block, and few wait for their turn; the rest are told to come back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use argon2::Argon2;
use argon2::password_hash::{self, PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use rand::RngCore;
use tokio::sync::Semaphore;

/// So many may wait for each that is worked on; at 20 ms each the last one waits about two seconds.
const WAITING_EACH: usize = 100;

/// Whether a password is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is.
    Right,
    /// It is not, or there is no such user, or the user has none.
    Wrong,
}

/// Why a password was not looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PasswordRefused {
    /// Too many are waiting: come back later.
    #[error("too many logins at once; try again a little later")]
    Busy,
    /// The stored hash cannot be read, or hashing failed: our own failure.
    #[error("the stored password cannot be read")]
    Broken,
}

/// Hashes and verifies, so many at once.
#[derive(Debug, Clone)]
pub struct Passwords {
    turns: Arc<Semaphore>,
    inside: Arc<AtomicUsize>,
    inside_max: usize,
    /// The hash of a password that nobody knows; unknown users are verified against it.
    nobody: Arc<str>,
}

/// One that is worked on or waits.
struct Inside(Arc<AtomicUsize>);

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Passwords {
    /// Works on `parallel` at once. Hashes one password on the spot.
    pub fn new(parallel: usize) -> Result<Self, PasswordRefused> {
        let parallel = parallel.clamp(1, 1_024);
        let mut secret = [0; 32];
        rand::rng().fill_bytes(&mut secret);
        Ok(Self {
            turns: Arc::new(Semaphore::new(parallel)),
            inside: Arc::default(),
            inside_max: parallel * (WAITING_EACH + 1),
            nobody: hash(&secret)?.into(),
        })
    }

    /// Makes the hash to store, a PHC string; the same password never gives the same twice.
    pub async fn hash(&self, password: String) -> Result<Box<str>, PasswordRefused> {
        self.work(move || hash(password.as_bytes())).await
    }

    /// Compares with a stored hash; without one it takes as long, and the answer is `Wrong`.
    pub async fn verify(
        &self,
        stored: Option<Box<str>>,
        password: String,
    ) -> Result<Verdict, PasswordRefused> {
        let nobody = self.nobody.clone();
        self.work(move || {
            let known = stored.is_some();
            let against = stored.as_deref().unwrap_or(&nobody);
            match verify(against, password.as_bytes())? {
                Verdict::Right if known => Ok(Verdict::Right),
                _ => Ok(Verdict::Wrong),
            }
        })
        .await
    }

    /// Waits for a turn and works on a thread that may block.
    async fn work<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> Result<T, PasswordRefused> + Send + 'static,
    ) -> Result<T, PasswordRefused> {
        let inside = Inside(self.inside.clone());
        if self.inside.fetch_add(1, Ordering::Relaxed) >= self.inside_max {
            return Err(PasswordRefused::Busy);
        }
        let turn = self.turns.clone().acquire_owned().await;
        let turn = turn.map_err(|_| PasswordRefused::Broken)?;
        let done = tokio::task::spawn_blocking(move || {
            // Held until the work is done, even if nobody waits for it any more.
            let _held = (turn, inside);
            job()
        });
        done.await.map_err(|_| PasswordRefused::Broken)?
    }
}

fn hash(password: &[u8]) -> Result<Box<str>, PasswordRefused> {
    let mut salt = [0; 16];
    rand::rng().fill_bytes(&mut salt);
    let salt = SaltString::encode_b64(&salt).map_err(|_| PasswordRefused::Broken)?;
    let hash = Argon2::default().hash_password(password, &salt);
    hash.map(|hash| hash.to_string().into()).map_err(|_| PasswordRefused::Broken)
}

fn verify(stored: &str, password: &[u8]) -> Result<Verdict, PasswordRefused> {
    let stored = PasswordHash::new(stored).map_err(|_| PasswordRefused::Broken)?;
    match Argon2::default().verify_password(password, &stored) {
        Ok(()) => Ok(Verdict::Right),
        Err(password_hash::Error::Password) => Ok(Verdict::Wrong),
        Err(_) => Err(PasswordRefused::Broken),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().build().unwrap()
    }

    #[test]
    fn only_the_right_password_of_a_known_user_is_right() {
        runtime().block_on(async {
            let passwords = Passwords::new(2).unwrap();
            let stored = passwords.hash("correct horse".into()).await.unwrap();
            assert!(stored.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{stored}");
            let verify = |stored, text: &str| passwords.verify(stored, text.to_owned());
            assert_eq!(verify(Some(stored.clone()), "correct horse").await, Ok(Verdict::Right));
            assert_eq!(verify(Some(stored.clone()), "wrong horse").await, Ok(Verdict::Wrong));
            assert_eq!(verify(Some(stored), "").await, Ok(Verdict::Wrong));
            assert_eq!(verify(None, "correct horse").await, Ok(Verdict::Wrong));
            let broken = verify(Some("nonsense".into()), "correct horse").await;
            assert_eq!(broken, Err(PasswordRefused::Broken));
        });
    }

    #[test]
    fn the_same_password_never_gives_the_same_hash() {
        assert_ne!(hash(b"correct horse").unwrap(), hash(b"correct horse").unwrap());
    }

    #[test]
    fn an_unknown_user_costs_the_same_work() {
        let passwords = Passwords::new(1).unwrap();
        let known = hash(b"correct horse").unwrap();
        let params = |phc: &str| phc.rsplitn(3, '$').nth(2).map(str::to_owned);
        assert_eq!(params(&passwords.nobody), params(&known));
    }

    #[test]
    fn so_many_are_worked_on_at_once_and_none_where_others_would_wait() {
        runtime().block_on(async {
            let passwords = Passwords::new(2).unwrap();
            let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
            let here = std::thread::current().id();
            let mut all = tokio::task::JoinSet::new();
            for _ in 0..6 {
                let (passwords, now, most) = (passwords.clone(), now.clone(), most.clone());
                let job = move || {
                    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    let _busy = hash(b"correct horse")?;
                    now.fetch_sub(1, Ordering::SeqCst);
                    Ok(std::thread::current().id())
                };
                all.spawn(async move { passwords.work(job).await });
            }
            for thread in all.join_all().await {
                assert_ne!(thread.unwrap(), here);
            }
            assert!(most.load(Ordering::SeqCst) <= 2, "{most:?}");
        });
    }

    #[test]
    fn past_the_queue_callers_are_told_to_come_back() {
        runtime().block_on(async {
            let mut passwords = Passwords::new(1).unwrap();
            passwords.inside_max = 1;
            let first = passwords.hash("correct horse".into());
            let second = passwords.hash("correct horse".into());
            let (first, second) = tokio::join!(first, second);
            assert!(first.is_ok());
            assert_eq!(second, Err(PasswordRefused::Busy));
            assert!(passwords.hash("correct horse".into()).await.is_ok());
        });
    }
}
