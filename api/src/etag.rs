//! Entity tags: the version of a resource, in quotes. What a conditional request asks for (RFC 9110, section 13).

use poem::http::{HeaderMap, HeaderValue, header};

/// The tag of a version: `"3"`.
#[must_use]
pub fn of(version: i32) -> HeaderValue {
    // Digits in quotes are always a header value.
    HeaderValue::try_from(format!("\"{version}\"")).unwrap_or_else(|_| HeaderValue::from_static("\"\""))
}

/// The versions that the `If-Match` headers of a request allow to change, as [`expected_versions`] reads them. One that
/// cannot be read is a condition that nothing meets, not none.
#[must_use]
pub fn expected(headers: &HeaderMap) -> Option<Vec<i32>> {
    let values = headers.get_all(header::IF_MATCH);
    let list: Vec<&str> = values.iter().map(|value| value.to_str().unwrap_or_default()).collect();
    if list.is_empty() {
        return None;
    }
    expected_versions(Some(&list.join(",")))
}

/// The versions that `If-Match` allows to change; none if it is absent or `*`, and any version will do.
///
/// What is no tag of ours, a weak one included, matches no version.
#[must_use]
pub fn expected_versions(if_match: Option<&str>) -> Option<Vec<i32>> {
    let list = if_match.filter(|list| list.trim() != "*")?;
    Some(list.split(',').filter_map(|tag| version(tag.trim())).collect())
}

/// Whether `If-None-Match` says that the client has this version already.
#[must_use]
pub fn is_known(if_none_match: Option<&str>, current: i32) -> bool {
    if_none_match.is_some_and(|list| {
        list.trim() == "*"
            || list.split(',').map(str::trim).any(|tag| {
                let strong = tag.strip_prefix("W/").unwrap_or(tag);
                version(strong) == Some(current)
            })
    })
}

fn version(tag: &str) -> Option<i32> {
    tag.strip_prefix('"')?.strip_suffix('"')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn if_match_names_versions_and_nonsense_names_none() {
        assert_eq!(of(3), "\"3\"");
        assert_eq!(expected_versions(None), None);
        assert_eq!(expected_versions(Some("*")), None);
        assert_eq!(expected_versions(Some("\"3\"")), Some(vec![3]));
        assert_eq!(expected_versions(Some("\"3\", \"4\"")), Some(vec![3, 4]));
        for nonsense in ["", "3", "W/\"3\"", "\"x\"", "\"", "\"3"] {
            assert_eq!(expected_versions(Some(nonsense)), Some(vec![]), "{nonsense}");
        }
    }

    #[test]
    fn if_none_match_compares_weakly() {
        for known in ["\"3\"", "W/\"3\"", "\"2\", \"3\"", "*"] {
            assert!(is_known(Some(known), 3), "{known}");
        }
        for other in ["", "3", "\"4\"", "W/\"4\""] {
            assert!(!is_known(Some(other), 3), "{other}");
        }
        assert!(!is_known(None, 3));
    }
}
