//! Where somebody lands who has signed in: on the page that they had asked for, so that a link that was shared survives
//! the sign-in. It is a page of the dashboard or the overview: no link leads elsewhere through it.

use poem::Request;
use poem::http::Method;

/// The overview.
pub const HOME: &str = "/ops";
/// Where one signs in.
pub const SIGN_IN: &str = "/ops/login";

/// No filter of ours is longer.
const LONGEST: usize = 2_000;
/// What is below the overview and no page to land on.
const NO_PAGES: [&str; 5] = [SIGN_IN, "/ops/logout", "/ops/live", "/ops/assets", "/ops/api"];

/// The sign-in page, with the way back to what `request` asked for.
#[must_use]
pub fn sign_in(request: &Request) -> String {
    let asked = request
        .original_uri()
        .path_and_query()
        .map_or(HOME, |asked| asked.as_str());
    if request.method() != Method::GET || asked == HOME {
        return SIGN_IN.to_owned();
    }
    page(asked).map_or_else(
        || SIGN_IN.to_owned(),
        |asked| {
            let next: String = form_urlencoded::byte_serialize(asked.as_bytes()).collect();
            format!("{SIGN_IN}?next={next}")
        },
    )
}

/// `next`, if it names a page of the dashboard and nothing that a browser could take for anything else.
#[must_use]
pub fn page(next: &str) -> Option<&str> {
    let (path, _) = next.split_once('?').unwrap_or((next, ""));
    let plain = next.len() <= LONGEST
        && next
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'\\' | b'#'));
    let below = path == HOME || path.starts_with("/ops/");
    let straight = !path.split('/').skip(1).any(|part| {
        let part = part.to_ascii_lowercase().replace("%2e", ".");
        part.is_empty() || part == "." || part == ".."
    });
    let no_page = NO_PAGES.iter().any(|other| {
        path.strip_prefix(other)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    });
    (plain && below && straight && !no_page).then_some(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pages_of_the_dashboard_are_landed_on() {
        for good in [
            "/ops",
            "/ops?notice=done",
            "/ops/jobs?state=dead&q=https://a.example//b",
            "/ops/jobs/01a2069f-23a9-7efa-81e5-d52e5a191acf",
            "/ops/liveness",
        ] {
            assert_eq!(page(good), Some(good));
        }
        let long = format!("/ops/jobs?q={}", "a".repeat(LONGEST));
        for bad in [
            "",
            "/",
            "//evil.example",
            "///evil.example/ops",
            "/\\evil.example",
            "/ops\\evil",
            "/ops/\\evil.example",
            "/ops//evil.example",
            "/ops/..//evil.example",
            "/ops/%2E%2e/evil",
            "/ops/./x",
            "/ops/jobs/",
            "/opsevil",
            "/evil",
            "ops/jobs",
            "https://evil.example/ops",
            "https:/ops",
            "javascript:alert(1)",
            " /ops",
            "\t//evil.example",
            "/\t/evil.example",
            "/ops/jobs\r\nset-cookie: a=b",
            "/ops/\0",
            "/ops/jobs?q=\u{85}",
            "/ops/jobs#x",
            "/ops/login",
            "/ops/login?next=/ops",
            "/ops/logout",
            "/ops/live",
            "/ops/api/overview",
            "/ops/assets/1/ops.js",
            long.as_str(),
        ] {
            assert_eq!(page(bad), None, "{bad:?}");
        }
    }
}
