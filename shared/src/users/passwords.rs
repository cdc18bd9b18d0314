//! Passwords: argon2id at OWASP's parameters, off the async threads, never more at once than there are cores.

use std::sync::Arc;
use std::thread::available_parallelism;

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use tokio::sync::Semaphore;

/// OWASP's second choice for argon2id: 19 MiB, two passes, one lane.
const MEMORY_KIB: u32 = 19_456;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// Requests that may wait for a core before further ones are turned away: about two seconds of work.
const WAITING_PER_CORE: usize = 40;

/// Why a password could be neither hashed nor checked.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    /// Too many are waiting already; a moment later there is room again.
    #[error("too many passwords are being checked")]
    Overloaded,
    /// The library refused, or a stored hash is damaged.
    #[error("hashing failed: {0}")]
    Hash(String),
}

/// Hashes and checks passwords. Clones share the bounds.
#[derive(Clone)]
pub struct Passwords {
    running: Arc<Semaphore>,
    queued: Arc<Semaphore>,
    /// Checked when there is no such user, so that the reply takes as long as for a wrong password.
    decoy: Arc<str>,
}

impl Passwords {
    /// Bounds for this machine.
    ///
    /// # Errors
    /// The library refuses the parameters.
    pub fn new() -> Result<Self, PasswordError> {
        let cores = available_parallelism().map_or(1, std::num::NonZero::get);
        Ok(Self {
            running: Arc::new(Semaphore::new(cores)),
            queued: Arc::new(Semaphore::new(cores * (WAITING_PER_CORE + 1))),
            decoy: hash("no account has this password")?.into(),
        })
    }

    /// A salted hash of `password`, as a PHC string.
    ///
    /// # Errors
    /// Too many are waiting, or the library refused.
    pub async fn hash(&self, password: String) -> Result<String, PasswordError> {
        self.run(move || hash(&password)).await
    }

    /// Whether `password` is the one that was hashed. Without a hash it is not, after the same time.
    ///
    /// # Errors
    /// Too many are waiting, or the stored hash is damaged.
    pub async fn verify(&self, password: String, stored: Option<String>) -> Result<bool, PasswordError> {
        let decoy = Arc::clone(&self.decoy);
        self.run(move || {
            let known = stored.is_some();
            let matches = verify(&password, stored.as_deref().unwrap_or(&decoy))?;
            Ok(known && matches)
        })
        .await
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, PasswordError> + Send + 'static,
    ) -> Result<T, PasswordError> {
        let _queued = self.queued.try_acquire().map_err(|_| PasswordError::Overloaded)?;
        let running = Arc::clone(&self.running)
            .acquire_owned()
            .await
            .map_err(|error| PasswordError::Hash(error.to_string()))?;
        // The permit goes with the work: it also counts when the request that wanted it is gone.
        tokio::task::spawn_blocking(move || {
            let _running = running;
            work()
        })
        .await
        .map_err(|error| PasswordError::Hash(error.to_string()))?
    }
}

fn argon2() -> Result<Argon2<'static>, PasswordError> {
    let params =
        Params::new(MEMORY_KIB, PASSES, LANES, None).map_err(|error| PasswordError::Hash(error.to_string()))?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

fn hash(password: &str) -> Result<String, PasswordError> {
    argon2()?
        .hash_password(password.as_bytes())
        .map(|hash: PasswordHash| hash.to_string())
        .map_err(|error| PasswordError::Hash(error.to_string()))
}

fn verify(password: &str, stored: &str) -> Result<bool, PasswordError> {
    let parsed = PasswordHash::new(stored).map_err(|error| PasswordError::Hash(error.to_string()))?;
    match argon2()?.verify_password(password.as_bytes(), &parsed) {
        Ok(()) => Ok(true),
        Err(argon2::password_hash::Error::PasswordInvalid) => Ok(false),
        Err(error) => Err(PasswordError::Hash(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_right_password_is_told_from_the_wrong_one() {
        let passwords = Passwords::new().unwrap();
        let stored = passwords.hash("correct horse battery".to_owned()).await.unwrap();
        assert!(stored.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{stored}");
        assert!(
            passwords
                .verify("correct horse battery".to_owned(), Some(stored.clone()))
                .await
                .unwrap()
        );
        assert!(
            !passwords
                .verify("correct horse batterz".to_owned(), Some(stored))
                .await
                .unwrap()
        );
        assert!(
            !passwords
                .verify("no account has this password".to_owned(), None)
                .await
                .unwrap()
        );
    }

    #[tokio::test]
    async fn more_than_can_wait_are_turned_away() {
        let passwords = Passwords {
            running: Arc::new(Semaphore::new(0)),
            queued: Arc::new(Semaphore::new(1)),
            decoy: "".into(),
        };
        let waiting = passwords.hash("one".to_owned());
        tokio::pin!(waiting);
        assert!(futures::poll!(waiting.as_mut()).is_pending());
        assert!(matches!(
            passwords.hash("two".to_owned()).await,
            Err(PasswordError::Overloaded)
        ));
    }
}
