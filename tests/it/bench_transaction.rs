//! Bookings a second are held against pgbench: it runs the transaction that the API runs, and no smaller one.

use roost_tests::app::TestApp;
use roost_tests::statements::Statements;
use serde_json::json;

const SCRIPT: &str = include_str!("../src/bench/booking.sql");

/// The statement with `?` for whatever is not the same every time, on one line.
fn shape(statement: &str) -> String {
    let mut text = String::new();
    let mut rest = statement.trim();
    while let Some(next) = rest.chars().next() {
        let inside_word = text.ends_with(|last: char| last.is_alphanumeric() || last == '_');
        let (length, value) = match next {
            _ if next.is_whitespace() => {
                rest = rest.trim_start();
                text.push(' ');
                continue;
            }
            '\'' => (rest[1..].find('\'').unwrap() + 2, true),
            ':' if rest.starts_with("::") => (2, false),
            ':' | '$' => (1 + word(&rest[1..]), true),
            _ if inside_word => (next.len_utf8(), false),
            _ if rest.starts_with("ARRAY[") => (rest.find(']').unwrap() + 1, true),
            '0'..='9' => (word(rest), true),
            _ if word(rest) == 4 && rest.starts_with("true") => (4, true),
            _ if word(rest) == 4 && rest.starts_with("NULL") => (4, !(text.ends_with("IS ") || text.ends_with("NOT "))),
            _ => (next.len_utf8(), false),
        };
        text.push_str(if value { "?" } else { &rest[..length] });
        rest = &rest[length..];
    }
    // Lists of states: newer servers do not write them out.
    let mut parts = text.split(" IN (");
    let mut short = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let after = part.split_once(')').unwrap().1;
        short.push_str(" IN (?)");
        short.push_str(after);
    }
    short
}

fn word(text: &str) -> usize {
    text.find(|c: char| !(c.is_alphanumeric() || c == '_'))
        .unwrap_or(text.len())
}

/// pgbench has no other place to calculate ids and dates than the first statement: they are left out.
fn without_calculations(lock: &str) -> String {
    let (columns, calculated) = lock.split_once("cancellation_policy, ").unwrap();
    assert!(calculated.ends_with("::uuid FOR NO KEY UPDATE"), "{lock}");
    let (_, condition) = calculated.split_once(" FROM properties WHERE id = (").unwrap();
    assert!(!condition.contains(" AND "), "{lock}");
    format!("{columns}cancellation_policy FROM properties WHERE id = ? FOR NO KEY UPDATE")
}

#[test]
fn values_have_no_shape() {
    for (statement, expected) in [
        (
            "SELECT $1,\n  '{1}'::int[] FROM a1 WHERE b IS NULL",
            "SELECT ?, ?::int[] FROM a1 WHERE b IS NULL",
        ),
        ("SELECT :a_1, :b::text, NULL, true, 12", "SELECT ?, ?::text, ?, ?, ?"),
        ("a\n IN ('b', 'c')\nAND d IN ($1 /*, ... */)", "a IN (?) AND d IN (?)"),
        (
            "unnest(ARRAY[:a, f(NULL, :b)]::uuid[]) nullable",
            "unnest(?::uuid[]) nullable",
        ),
    ] {
        assert_eq!(shape(statement), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pgbench_runs_the_transaction_of_a_booking() {
    let commands = SCRIPT
        .lines()
        .filter(|line| !line.starts_with("--") && !line.starts_with("\\set"));
    let script = commands.collect::<Vec<_>>().join("\n").replace("\\gset", ";");
    let mut script: Vec<String> = script
        .split(';')
        .map(shape)
        .filter(|statement| !statement.is_empty())
        .collect();
    script[1] = without_calculations(&script[1]);
    script.sort();

    let app = TestApp::start().await;
    let (host, guest) = (app.host().await, app.guest().await);
    let flat = app.lists(&host, json!({})).await;
    let statements = Statements::counted(&app).await;
    let stay = json!({
        "property_id": flat, "check_in": app.day(30), "check_out": app.day(32), "guests": 1, "payment_method": "pm_card_visa",
    });
    let (ran, reply) = statements.of(app.post("/bookings", stay).by(&guest)).await;
    reply.expect(201);
    let mut ran: Vec<String> = ran.iter().map(|statement| shape(statement)).collect();
    ran.sort();
    assert_eq!(script, ran);
}
