//! Operators who leave, change their role or forget their password: what the real program does about it, at once.

use std::process::Stdio;
use std::time::Duration;

use roost_shared::operators::{self, Role, accounts, audit, sessions};
use roost_shared::sessions::Origin;
use roost_tests::ops::{Dashboard, PASSWORD};
use roost_tests::world::World;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

const VIEWER: &str = "viewer@ops.example.com";
const ADMIN: &str = "admin@ops.example.com";

/// `roost-api ops …` with this on its standard input: whether it succeeded, and what it said.
async fn roost_api_ops(world: &World, arguments: &[&str], input: &str) -> (bool, String) {
    let test = std::env::current_exe().unwrap();
    let mut child = tokio::process::Command::new(test.parent().unwrap().parent().unwrap().join("roost-api"))
        .env_clear()
        .env("DATABASE_URL", world.database_url())
        .env("REDIS_URL", world.redis_url())
        .env("USER", "ada")
        .arg("ops")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // Who does not read it has closed it.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    let ran = child.wait_with_output().await.unwrap();
    let text = [ran.stdout, ran.stderr].concat();
    (ran.status.success(), String::from_utf8(text).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_who_leaves_is_out_at_once_and_may_come_back() {
    let world = World::without_worker().await;
    let ops = Dashboard::start(&world.state).await;
    let browser = ops.signed_in(Role::Viewer).await;
    browser.get("/ops").await.is(200);
    let run = async |command: &str, whom: &str| roost_api_ops(&world, &[command, "--email", whom], "").await;

    let live = reqwest::Client::new()
        .get(format!("{}/ops/live", ops.base))
        .header("cookie", &browser.cookie);
    let live = live.send().await.unwrap();
    assert_eq!(live.status(), 200);

    // As somebody types it.
    let (done, said) = run("disable", " Viewer@ops.example.com").await;
    assert!(done && said.contains("is kept out"), "{said}");
    assert_eq!(browser.get("/ops").await.is(303).location, "/ops/login");
    ops.signs_in(VIEWER, PASSWORD, "").await.is(401);
    // What they were looking at ends as well, long before it would by itself.
    let rest = tokio::time::timeout(Duration::from_secs(90), live.bytes()).await;
    rest.expect("the live overview goes on").unwrap();
    let (_, listed) = roost_api_ops(&world, &["list"], "").await;
    assert!(
        listed.starts_with("viewer") && listed.contains(VIEWER) && listed.contains("disabled since"),
        "{listed}"
    );

    assert!(run("enable", VIEWER).await.0);
    ops.signs_in(VIEWER, PASSWORD, "").await.is(303);
    assert_eq!(
        browser.get("/ops").await.is(303).location,
        "/ops/login",
        "the old session is gone"
    );
    let (_, listed) = roost_api_ops(&world, &["list"], "").await;
    assert!(listed.contains("active"), "{listed}");
    for command in ["disable", "enable"] {
        let (done, said) = run(command, "nobody@ops.example.com").await;
        assert!(!done && said.contains("there is no operator"), "{said}");
    }
    let entries = audit::list(world.pool(), None, 10).await.unwrap();
    let changes: Vec<&str> = entries
        .iter()
        .filter(|entry| entry.actor == "cli:ada" && entry.target == VIEWER)
        .map(|entry| entry.action.as_str())
        .collect();
    assert_eq!(changes, ["operator.enable", "operator.disable"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_role_or_password_ends_the_sessions_of_the_one_before() {
    let world = World::without_worker().await;
    let ops = Dashboard::start(&world.state).await;
    let browser = ops.signed_in(Role::Viewer).await;
    let (done, said) = roost_api_ops(&world, &["set-role", "--email", VIEWER, "--role", "operator"], "").await;
    assert!(done && said.contains("is operator"), "{said}");
    assert_eq!(browser.get("/ops").await.is(303).location, "/ops/login");
    let role: String = sqlx::query_scalar("SELECT role FROM operators")
        .fetch_one(world.pool())
        .await
        .unwrap();
    assert_eq!(role, "operator");
    let (done, _) = roost_api_ops(&world, &["set-role", "--email", VIEWER, "--role", "emperor"], "").await;
    assert!(!done);

    ops.signs_in(VIEWER, PASSWORD, "").await.is(303);
    let sessions = "SELECT count(*) FROM operator_sessions";
    assert_eq!(world.counts(sessions).await, 1);
    let reset = ["reset-password", "--email", VIEWER];
    let (done, said) = roost_api_ops(&world, &reset, "too short\n").await;
    assert!(!done && said.contains("12 to 128 characters"), "{said}");
    assert_eq!(world.counts(sessions).await, 1);
    let (done, said) = roost_api_ops(&world, &reset, "another password entirely\n").await;
    assert!(done, "{said}");
    assert_eq!(world.counts(sessions).await, 0);
    ops.signs_in(VIEWER, PASSWORD, "").await.is(401);
    ops.signs_in(VIEWER, "another password entirely", "").await.is(303);

    let entries = audit::list(world.pool(), None, 10).await.unwrap();
    let changes: Vec<(&str, Option<&Value>, Option<&Value>)> = entries
        .iter()
        .filter(|entry| entry.actor == "cli:ada")
        .map(|entry| (entry.action.as_str(), entry.before.as_ref(), entry.after.as_ref()))
        .collect();
    let (viewer, operator) = (json!({"role": "viewer"}), json!({"role": "operator"}));
    assert_eq!(
        changes,
        [
            ("operator.password", None, None),
            ("operator.role", Some(&viewer), Some(&operator))
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_active_admin_stays() {
    let world = World::without_worker().await;
    let ops = Dashboard::start(&world.state).await;
    let browser = ops.signed_in(Role::Admin).await;
    let second = "second@ops.example.com";
    let disable = ["disable", "--email", ADMIN];
    let demote = ["set-role", "--email", ADMIN, "--role", "operator"];
    let is_refused = async || {
        for arguments in [&disable[..], &demote[..]] {
            let (done, said) = roost_api_ops(&world, arguments, "").await;
            assert!(!done && said.contains("is the last active admin"), "{said}");
        }
    };
    is_refused().await;
    // One who is kept out does not count.
    let new = format!("{PASSWORD}\n");
    assert!(
        roost_api_ops(&world, &["create-admin", "--email", second], &new)
            .await
            .0
    );
    assert!(roost_api_ops(&world, &["disable", "--email", second], "").await.0);
    is_refused().await;
    browser.get("/ops").await.is(200);

    assert!(roost_api_ops(&world, &["enable", "--email", second], "").await.0);
    // Both at once: one of them stays.
    let demote_second = ["set-role", "--email", second, "--role", "viewer"];
    let (first, other) = tokio::join!(
        roost_api_ops(&world, &disable, ""),
        roost_api_ops(&world, &demote_second, "")
    );
    assert!(first.0 != other.0, "{first:?} {other:?}");
    let admins = "SELECT count(*) FROM operators WHERE role = 'admin' AND disabled_at IS NULL";
    assert_eq!(world.counts(admins).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_in_that_a_change_overtakes_is_refused() {
    let world = World::without_worker().await;
    let ops = Dashboard::start(&world.state).await;
    ops.make(Role::Admin).await;
    let state = &world.state;
    for change in ["none", "role", "password", "disable", "authenticator"] {
        let email = format!("{change}@ops.example.com");
        let new = operators::NewOperator::new(&state.passwords, &email, PASSWORD.to_owned(), Role::Operator).await;
        let mut tx = state.db.begin().await.unwrap();
        operators::create(&mut tx, new.unwrap(), "test").await.unwrap();
        tx.commit().await.unwrap();
        // The password was right, and the session is opened after what happens meanwhile.
        let now = world.clock.now();
        let password = PASSWORD.to_owned();
        let signed = operators::authenticate(
            world.pool(),
            &state.passwords,
            &state.sealing,
            &email,
            password,
            "",
            now,
        );
        let signed = signed.await.unwrap().unwrap();
        let mut tx = state.db.begin().await.unwrap();
        match change {
            "role" => {
                accounts::set_role(&mut tx, &email, Role::Viewer, "test").await.unwrap();
            }
            "password" => {
                let new = operators::NewPassword::new(&state.passwords, "another password entirely".to_owned());
                let new = new.await.unwrap();
                accounts::set_password(&mut tx, &email, new, "test").await.unwrap();
            }
            // Another one than the code was of.
            "authenticator" => {
                let replaced = "UPDATE operators SET totp_secret = 'sealed otherwise' WHERE email = $1";
                sqlx::query(replaced).bind(&email).execute(tx.conn()).await.unwrap();
            }
            "disable" => {
                accounts::set_disabled(&mut tx, &email, true, "test").await.unwrap();
            }
            _ => {}
        }
        tx.commit().await.unwrap();
        let mut tx = state.db.begin().await.unwrap();
        let opened = sessions::open(&mut tx, &signed, Origin::default()).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(opened.is_some(), change == "none", "{change}");
    }
    assert_eq!(world.counts("SELECT count(*) FROM operator_sessions").await, 1);
}
