//! Access tokens: short-lived signed JWTs that name the user, the session and the role.
//!
//! HS256 only. The header's `kid` is derived from the secret, so a token made with the previous secret is still
//! found during a rotation, and one of an unknown secret is refused before any signature is computed.

use chrono::{DateTime, Duration, Utc};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::config::{ConfigError, Secret};
use crate::ids;
use crate::users::Role;

const ISSUER: &str = "roost";
const AUDIENCE: &str = "roost-api";
const KIND: &str = "access";
pub(crate) const SHORTEST_SECRET: usize = 32;

/// How long an access token is good for.
pub const LIFETIME: Duration = Duration::minutes(15);

/// What an access token says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// The user.
    pub sub: Uuid,
    /// The session that the token belongs to.
    pub sid: Uuid,
    /// Always `access`: a token made for something else is none.
    pub typ: String,
    /// What the account was made for.
    pub role: Role,
    /// Who made it.
    pub iss: String,
    /// Whom it is for.
    pub aud: String,
    /// When it was made, seconds since 1970 UTC.
    pub iat: i64,
    /// When it ends, seconds since 1970 UTC.
    pub exp: i64,
    /// The token's own id.
    pub jti: Uuid,
}

/// Why a token is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It was good once.
    #[error("the access token has expired")]
    Expired,
    /// Forged, damaged, or made for something else.
    #[error("the access token is not valid")]
    Invalid,
}

struct Key {
    id: String,
    encoding: EncodingKey,
    decoding: DecodingKey,
    secret: Secret,
}

impl Key {
    fn new(name: &'static str, secret: &Secret) -> Result<Self, ConfigError> {
        let bytes = secret.expose().as_bytes();
        if bytes.len() < SHORTEST_SECRET {
            return Err(ConfigError::Invalid {
                name,
                reason: format!("it has {} bytes, {SHORTEST_SECRET} are the least", bytes.len()),
            });
        }
        let digest = Sha256::new_with_prefix(b"roost kid ").chain_update(bytes).finalize();
        Ok(Self {
            id: hex::encode(digest.get(..8).unwrap_or_default()),
            encoding: EncodingKey::from_secret(bytes),
            decoding: DecodingKey::from_secret(bytes),
            secret: secret.clone(),
        })
    }
}

/// Makes and checks access tokens.
pub struct Tokens {
    current: Key,
    previous: Option<Key>,
}

impl Tokens {
    /// `current` signs; tokens of `previous` are still accepted.
    ///
    /// # Errors
    /// A secret is shorter than 32 bytes.
    pub fn new(current: &Secret, previous: Option<&Secret>) -> Result<Self, ConfigError> {
        Ok(Self {
            current: Key::new("JWT_SECRET", current)?,
            previous: previous
                .map(|secret| Key::new("JWT_SECRET_PREVIOUS", secret))
                .transpose()?,
        })
    }

    /// A token for `user_id` in `session_id`, good for [`LIFETIME`] from `now`.
    ///
    /// # Errors
    /// The claims cannot be serialised, which does not happen.
    pub fn issue(
        &self,
        user_id: Uuid,
        session_id: Uuid,
        role: Role,
        now: DateTime<Utc>,
    ) -> Result<String, jsonwebtoken::errors::Error> {
        let claims = Claims {
            sub: user_id,
            sid: session_id,
            typ: KIND.to_owned(),
            role,
            iss: ISSUER.to_owned(),
            aud: AUDIENCE.to_owned(),
            iat: now.timestamp(),
            exp: (now + LIFETIME).timestamp(),
            jti: ids::new(now),
        };
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some(self.current.id.clone());
        jsonwebtoken::encode(&header, &claims, &self.current.encoding)
    }

    /// Reads a token at the instant `now`.
    ///
    /// # Errors
    /// It is not one of ours, or has expired.
    pub fn verify(&self, token: &str, now: DateTime<Utc>) -> Result<Claims, TokenError> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| TokenError::Invalid)?;
        let key = self
            .keys()
            .find(|key| header.kid.as_deref() == Some(key.id.as_str()))
            .ok_or(TokenError::Invalid)?;
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_issuer(&[ISSUER]);
        validation.set_audience(&[AUDIENCE]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        // Times are judged below, by the caller's clock.
        validation.validate_exp = false;
        let claims = jsonwebtoken::decode::<Claims>(token, &key.decoding, &validation)
            .map_err(|_| TokenError::Invalid)?
            .claims;
        if claims.typ != KIND || claims.exp - claims.iat > LIFETIME.num_seconds() {
            return Err(TokenError::Invalid);
        }
        if claims.exp <= now.timestamp() {
            return Err(TokenError::Expired);
        }
        Ok(claims)
    }

    /// The secrets, the current one first: for other keyed digests that follow the same rotation.
    pub fn secrets(&self) -> impl Iterator<Item = &Secret> {
        self.keys().map(|key| &key.secret)
    }

    fn keys(&self) -> impl Iterator<Item = &Key> {
        std::iter::once(&self.current).chain(self.previous.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    const OLD: &str = "the-old-secret-of-more-than-32-bytes";
    const NEW: &str = "the-new-secret-of-more-than-32-bytes";

    fn tokens(current: &str, previous: Option<&str>) -> Tokens {
        Tokens::new(&current.into(), previous.map(Secret::new).as_ref()).unwrap()
    }

    fn forged(change: impl FnOnce(&mut Header, &mut Claims)) -> String {
        let now = Clock::default().now();
        let issuer = tokens(NEW, None);
        let token = issuer.issue(ids::new(now), ids::new(now), Role::Guest, now).unwrap();
        let mut header = jsonwebtoken::decode_header(&token).unwrap();
        let mut claims = issuer.verify(&token, now).unwrap();
        change(&mut header, &mut claims);
        jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(NEW.as_bytes())).unwrap()
    }

    #[test]
    fn a_token_is_good_until_it_expires() {
        let now = Clock::default().now();
        let issuer = tokens(NEW, None);
        let (user, session) = (ids::new(now), ids::new(now));
        let token = issuer.issue(user, session, Role::Host, now).unwrap();
        let claims = issuer.verify(&token, now + Duration::minutes(14)).unwrap();
        assert_eq!((claims.sub, claims.sid, claims.role), (user, session, Role::Host));
        assert_eq!(issuer.verify(&token, now + LIFETIME), Err(TokenError::Expired));
    }

    #[test]
    fn a_rotated_secret_is_accepted_as_the_previous_one_and_not_otherwise() {
        let now = Clock::default().now();
        let token = tokens(OLD, None)
            .issue(ids::new(now), ids::new(now), Role::Guest, now)
            .unwrap();
        assert!(tokens(NEW, Some(OLD)).verify(&token, now).is_ok());
        assert_eq!(tokens(NEW, None).verify(&token, now), Err(TokenError::Invalid));
    }

    #[test]
    fn forged_tokens_are_refused() {
        let now = Clock::default().now();
        let verifier = tokens(NEW, None);
        assert!(verifier.verify(&forged(|_, _| ()), now).is_ok());
        let forgeries = [
            forged(|_, claims| claims.typ = "refresh".to_owned()),
            forged(|_, claims| claims.aud = "somebody-else".to_owned()),
            forged(|_, claims| claims.iss = "somebody-else".to_owned()),
            forged(|_, claims| claims.exp += 3600),
            forged(|header, _| header.kid = None),
            forged(|header, _| header.alg = Algorithm::HS384),
            // {"alg":"none","typ":"JWT"} and no signature
            "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.eyJzdWIiOiIxIn0.".to_owned(),
            "not a token".to_owned(),
            String::new(),
        ];
        for forgery in forgeries {
            assert_eq!(verifier.verify(&forgery, now), Err(TokenError::Invalid), "{forgery}");
        }
    }

    #[test]
    fn a_short_secret_is_refused() {
        assert!(Tokens::new(&"short".into(), None).is_err());
    }
}
