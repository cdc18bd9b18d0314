//! `expand[]`: replaces ids in a reply by the objects they name.

use serde_json::Value;

use super::account::Call;
use super::errors::ApiError;

/// Fields that hold an id and may be asked for as an object.
const EXPANDABLE: [&str; 6] = [
    "balance_transaction",
    "charge",
    "latest_charge",
    "payment_intent",
    "payment_method",
    "source",
];

fn not_expandable(path: &str) -> ApiError {
    ApiError::invalid(format!("This property cannot be expanded ({path}).")).param("expand")
}

/// Refuses paths that no object has, before the operation runs.
pub(super) fn check(paths: &[String]) -> Result<(), ApiError> {
    let known = |path: &&String| path.split('.').all(|name| name == "data" || EXPANDABLE.contains(&name));
    match paths.iter().find(|path| !known(path)) {
        Some(path) => Err(not_expandable(path)),
        None => Ok(()),
    }
}

impl Call<'_> {
    /// Expands each dotted path, such as `latest_charge.balance_transaction` or `data.charge`.
    pub fn expand(&self, reply: &mut Value, paths: &[String]) -> Result<(), ApiError> {
        for path in paths {
            let names: Vec<&str> = path.split('.').collect();
            self.expand_path(reply, &names)
                .ok_or_else(|| not_expandable(path).executed())?;
        }
        Ok(())
    }

    fn expand_path(&self, node: &mut Value, path: &[&str]) -> Option<()> {
        let Some((name, rest)) = path.split_first() else {
            return Some(());
        };
        if let Value::Array(items) = node {
            return items.iter_mut().try_for_each(|item| self.expand_path(item, path));
        }
        let field = node.get_mut(*name)?;
        match field {
            Value::Null => Some(()),
            Value::String(id) if EXPANDABLE.contains(name) => {
                *field = self.account.render(id, self.now)?;
                self.expand_path(field, rest)
            }
            Value::Object(_) | Value::Array(_) if !rest.is_empty() => self.expand_path(field, rest),
            Value::Object(_) if EXPANDABLE.contains(name) => Some(()),
            _ => None,
        }
    }
}
