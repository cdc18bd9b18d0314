//! What is around every page: who is signed in, where one is, and the token of its forms.

use askama::Template;
use poem::IntoResponse;
use poem::Response;
use poem::web::Html;
use roost_shared::operators::{Operator, Role};

use super::access::Signed;
use super::assets;
use super::fault::Fault;

/// For `base.html`.
pub struct Shell {
    /// Which entry of the menu is on.
    pub active: &'static str,
    /// What the window is called.
    pub title: String,
    /// Who looks.
    pub operator: Operator,
    /// Goes with every form.
    pub csrf: String,
    /// Where styles and scripts are.
    pub assets: &'static str,
    /// What the last action came to.
    pub notice: Option<String>,
}

impl Shell {
    /// Around a page of a signed-in operator.
    #[must_use]
    pub fn new(signed: &Signed, active: &'static str, title: impl Into<String>) -> Self {
        Self {
            active,
            title: title.into(),
            operator: signed.operator().clone(),
            csrf: signed.csrf().to_owned(),
            assets: assets::BASE,
            notice: None,
        }
    }

    /// With what the last action came to.
    #[must_use]
    pub fn with_notice(mut self, notice: Option<&str>) -> Self {
        self.notice = notice.map(str::to_owned);
        self
    }

    /// Whether buttons of operators are shown.
    #[must_use]
    pub fn may_operate(&self) -> bool {
        self.may(Role::Operator)
    }

    /// Whether buttons of admins are shown.
    #[must_use]
    pub fn may_admin(&self) -> bool {
        self.may(Role::Admin)
    }

    /// Whether buttons of this role are shown.
    #[must_use]
    pub fn may(&self, role: Role) -> bool {
        self.operator.role >= role
    }
}

/// Renders a page.
///
/// # Errors
/// The template fails, which is a mistake of ours.
pub fn html(page: &impl Template) -> Result<Response, Fault> {
    Ok(Html(page.render()?).into_response())
}
