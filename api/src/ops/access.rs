//! Who may see the dashboard: signing in and out, the session behind a cookie, and the token that every form carries.

use std::time::Duration;

use askama::Template;
use poem::http::{HeaderMap, HeaderValue, StatusCode, header};
use poem::web::{Data, Html};
use poem::{FromRequest, IntoResponse, Request, RequestBody, Response, handler};
use roost_shared::jobs::actions::By;
use roost_shared::operators::audit::{self, Entry};
use roost_shared::operators::sessions::{self, Session};
use roost_shared::operators::sign_ins::{self, Subject};
use roost_shared::operators::{self, Operator, Role};

use super::assets;
use super::fault::Fault;
use super::landing;
use super::params::{Form, Params};
use crate::client::Client;
use crate::state::AppState;

/// The cookie's name.
pub const COOKIE: &str = "roost_ops";
/// The header of what a page asks for by itself to keep itself fresh.
const REFRESH: &str = "x-roost-refresh";
const MINUTE: Duration = Duration::from_secs(60);

/// A signed-in operator.
#[derive(Clone, Debug)]
pub struct Signed {
    session: Session,
    token: String,
}

impl Signed {
    /// Who.
    #[must_use]
    pub fn operator(&self) -> &Operator {
        &self.session.operator
    }

    /// The session that asks.
    #[must_use]
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The token of their forms.
    #[must_use]
    pub fn csrf(&self) -> &str {
        &self.session.csrf
    }

    /// Refuses an operator with less than this role.
    ///
    /// # Errors
    /// [`Fault::Forbidden`].
    pub fn require(&self, role: Role) -> Result<(), Fault> {
        if self.operator().role >= role {
            Ok(())
        } else {
            Err(Fault::Forbidden(format!(
                "This takes the role {}, and you are {}.",
                role.name(),
                self.operator().role.name()
            )))
        }
    }

    /// Whether the session has not ended meanwhile: for what lasts longer than a request.
    pub(super) async fn still_holds(&self, state: &AppState) -> Result<bool, Fault> {
        let found = sessions::find(state.db.pool(), &self.token, state.clock.now()).await?;
        Ok(found.is_some())
    }

    /// Signs them out.
    pub(super) async fn end(&self, state: &AppState) -> Result<(), Fault> {
        let mut tx = state.db.begin().await?;
        if sessions::end(&mut tx, &self.token).await? {
            let email = &self.operator().email;
            audit::append(&mut tx, Entry::new(email, "operator.sign_out", email)).await?;
        }
        Ok(tx.commit().await?)
    }

    /// By the token of a session.
    pub(super) async fn of(state: &AppState, token: &str, touch: bool) -> Result<Self, Fault> {
        let now = state.clock.now();
        let session = sessions::find(state.db.pool(), token, now)
            .await?
            .ok_or(Fault::SignIn)?;
        if touch {
            sessions::touch(state.db.pool(), token, &session, now).await?;
        }
        Ok(Self {
            session,
            token: token.to_owned(),
        })
    }

    /// By the bearer token of a request to the JSON API, or by the cookie.
    ///
    /// # Errors
    /// [`Fault::SignIn`].
    pub async fn of_request(request: &Request) -> Result<(Self, bool), Fault> {
        let state = request
            .data::<AppState>()
            .ok_or_else(|| Fault::internal("the dashboard has no state"))?;
        let bearer = request
            .header(header::AUTHORIZATION)
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        if let Some((_, token)) = bearer {
            return Ok((Self::of(state, token.trim(), true).await?, false));
        }
        let token = cookie(request.headers()).ok_or(Fault::SignIn)?;
        // A page that keeps itself fresh is nobody at work.
        let touch = request.uri().path() != "/ops/live" && request.header(REFRESH).is_none();
        Ok((Self::of(state, token, touch).await?, true))
    }
}

impl<'a> FromRequest<'a> for Signed {
    async fn from_request(request: &'a Request, _: &mut RequestBody) -> poem::Result<Self> {
        match Self::of_request(request).await {
            Ok((signed, _)) => Ok(signed),
            Err(Fault::SignIn) => Err(poem::Error::from_response(to(&landing::sign_in(request)))),
            Err(fault) => Err(fault.into()),
        }
    }
}

/// A form of a signed-in operator that came from one of our pages.
#[derive(Clone, Debug)]
pub struct Submission {
    /// Who.
    pub signed: Signed,
    /// What they wrote.
    pub form: Params,
}

impl Submission {
    /// Who sent it, and the reason if one was given.
    #[must_use]
    pub fn by(&self) -> By<'_> {
        By {
            actor: &self.signed.operator().email,
            reason: self.form.get("reason"),
        }
    }
}

impl<'a> FromRequest<'a> for Submission {
    async fn from_request(request: &'a Request, body: &mut RequestBody) -> poem::Result<Self> {
        let (signed, _) = Signed::of_request(request).await?;
        let Form(form) = Form::from_request(request, body).await?;
        same_origin(request.headers())?;
        let given = form
            .get("csrf")
            .or_else(|| request.header("x-csrf-token"))
            .unwrap_or_default();
        if !equal(given, signed.csrf()) {
            return Err(
                Fault::Forbidden("The form is of another session: go back, reload, and try again.".to_owned()).into(),
            );
        }
        Ok(Self { signed, form })
    }
}

/// In the same time wherever they differ.
fn equal(left: &str, right: &str) -> bool {
    left.len() == right.len()
        && left
            .bytes()
            .zip(right.bytes())
            .fold(0, |difference, (left, right)| difference | (left ^ right))
            == 0
}

/// Refuses what a browser says came from another site.
pub(super) fn same_origin(headers: &HeaderMap) -> Result<(), Fault> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let site_ok = text("sec-fetch-site").is_none_or(|site| matches!(site, "same-origin" | "none"));
    let origin_ok = text("origin").is_none_or(|origin| {
        let host = origin.split_once("://").map(|(_, host)| host);
        host.is_some() && host == text("host")
    });
    if site_ok && origin_ok {
        Ok(())
    } else {
        Err(Fault::Forbidden("The form came from another site.".to_owned()))
    }
}

pub(super) fn cookie(headers: &HeaderMap) -> Option<&str> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .find_map(|pair| pair.trim().strip_prefix(COOKIE)?.strip_prefix('='))
}

/// The cookie is for our own pages only, and no script reads it. Behind HTTPS it never leaves it. It comes along when
/// somebody follows a link in a chat, but with no form of another site; and nothing is done but by a form.
fn set_cookie(state: &AppState, token: &str, seconds: i64) -> Result<HeaderValue, Fault> {
    let secure = if state.settings.public_url.starts_with("https://") {
        "; Secure"
    } else {
        ""
    };
    HeaderValue::try_from(format!(
        "{COOKIE}={token}; Path=/ops; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}"
    ))
    .map_err(Fault::internal)
}

fn to(location: &str) -> Response {
    Response::builder()
        .status(StatusCode::SEE_OTHER)
        .header(header::LOCATION, location)
        .finish()
}

#[derive(Template)]
#[template(path = "ops/login.html")]
struct LoginPage {
    assets: &'static str,
    email: String,
    /// Where to land; empty: on the overview.
    next: String,
    refusal: Option<&'static str>,
}

#[handler]
pub async fn login_page(request: &Request, params: Params) -> Result<Response, Fault> {
    let next = params.get("next").and_then(landing::page);
    if Signed::of_request(request).await.is_ok() {
        return Ok(to(next.unwrap_or(landing::HOME)));
    }
    let page = LoginPage {
        assets: assets::BASE,
        email: String::new(),
        next: next.unwrap_or_default().to_owned(),
        refusal: None,
    };
    Ok(Html(page.render()?).into_response())
}

/// Counts a try and refuses one too many: per account and address, and ten times as many for either alone. What strangers
/// try at an account keeps nobody out of where they have signed in this month. 0 limits nothing.
pub(super) async fn limit(state: &AppState, client: &Client, email: &str) -> Result<(), Fault> {
    let often = state.settings.logins_per_minute;
    if often == 0 {
        return Ok(());
    }
    let (address, now) = (client.network(), state.clock.now());
    let mut subjects = vec![
        Subject::new(&format!("both {address} {email}"), often),
        Subject::new(&format!("address {address}"), often.saturating_mul(10)),
    ];
    if !sign_ins::is_remembered(state.db.pool(), &place(client, email), now).await? {
        subjects.push(Subject::new(&format!("account {email}"), often.saturating_mul(10)));
    }
    if sign_ins::count(state.db.pool(), &subjects, MINUTE, now).await? {
        return Ok(());
    }
    metrics::counter!("roost_rate_limited_total", "action" => "ops-login").increment(1);
    Err(Fault::TooMany(MINUTE.as_secs()))
}

/// From where an account signs in.
fn place(client: &Client, email: &str) -> String {
    format!("{} {email}", client.network())
}

/// Opens a session for the right e-mail address, password and code; none for any other.
pub(super) async fn sign_in(
    state: &AppState,
    client: &Client,
    email: &str,
    password: &str,
    code: &str,
) -> Result<Option<(Operator, sessions::Opened)>, Fault> {
    let email = email.trim().to_ascii_lowercase();
    limit(state, client, &email).await?;
    let authenticated = operators::authenticate(
        state.db.pool(),
        &state.passwords,
        &state.sealing,
        &email,
        password.to_owned(),
        code,
        state.clock.now(),
    )
    .await?;
    let Some(authenticated) = authenticated else {
        refused(state, client, email);
        return Ok(None);
    };
    let mut tx = state.db.begin().await?;
    let Some(opened) = sessions::open(&mut tx, &authenticated, client.origin()).await? else {
        refused(state, client, email);
        return Ok(None);
    };
    let operator = authenticated.operator;
    sign_ins::remember(&mut tx, &place(client, &email)).await?;
    let from = serde_json::json!({ "ip": client.ip });
    audit::append(
        &mut tx,
        Entry::new(&operator.email, "operator.sign_in", &operator.email).after(from),
    )
    .await?;
    tx.commit().await?;
    Ok(Some((operator, opened)))
}

/// Tells of a refused sign-in: in the audit log too, if there is such an operator. Written beside the reply, whose time does
/// not tell whether there is.
fn refused(state: &AppState, client: &Client, email: String) {
    metrics::counter!("roost_ops_sign_ins_refused_total").increment(1);
    tracing::warn!(ip = client.ip, "an operator's sign-in was refused");
    let (db, from) = (state.db.clone(), serde_json::json!({ "ip": client.ip }));
    tokio::spawn(async move {
        let written = async {
            let mut tx = db.begin().await?;
            if operators::is_known(&mut tx, &email).await? {
                let entry = Entry::new("anonymous", "operator.sign_in_refused", &email).after(from);
                audit::append(&mut tx, entry).await?;
            }
            tx.commit().await
        };
        if let Err(error) = written.await {
            tracing::warn!(%error, "a refused sign-in is not in the audit log");
        }
    });
}

#[handler]
pub async fn login(
    state: Data<&AppState>,
    client: Client,
    request: &Request,
    Form(form): Form,
) -> Result<Response, Fault> {
    same_origin(request.headers())?;
    let email = form.get("email").unwrap_or_default();
    // As it was typed: spaces at its ends belong to a password.
    let password = form.all("password").next().unwrap_or_default();
    let code = form.get("code").unwrap_or_default();
    let next = form.get("next").and_then(landing::page);
    match sign_in(&state, &client, email, password, code).await? {
        Some((_, opened)) => {
            let mut reply = to(next.unwrap_or(landing::HOME));
            reply.headers_mut().insert(
                header::SET_COOKIE,
                set_cookie(&state, &opened.token, sessions::LONGEST.num_seconds())?,
            );
            Ok(reply)
        }
        None => {
            let page = LoginPage {
                assets: assets::BASE,
                email: email.to_owned(),
                next: next.unwrap_or_default().to_owned(),
                refusal: Some("The e-mail address, the password or the code is not right."),
            };
            Ok(Html(page.render()?)
                .with_status(StatusCode::UNAUTHORIZED)
                .into_response())
        }
    }
}

#[handler]
pub async fn logout(state: Data<&AppState>, submission: Submission) -> Result<Response, Fault> {
    submission.signed.end(&state).await?;
    let mut reply = to(landing::SIGN_IN);
    reply
        .headers_mut()
        .insert(header::SET_COOKIE, set_cookie(&state, "", 0)?);
    Ok(reply)
}
