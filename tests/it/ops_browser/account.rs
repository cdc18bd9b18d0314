//! The page of one's own account, used: an authenticator from its QR code to the next sign-in, another password, sessions.

use chrono::TimeDelta;
use roost_shared::operators::{self, Role};
use roost_tests::browser::Browser;
use roost_tests::ops::{Dashboard, PASSWORD};
use roost_tests::world::World;

use super::AXE;
use super::acting::Desk;

const NEW: &str = "a password after the first";
/// The drawing of the QR code as the browser paints it, a sign a module.
const PAINTED: &str = "const svg = document.querySelector('svg.qr'); const size = svg.viewBox.baseVal.width;
    const canvas = document.createElement('canvas'); canvas.width = canvas.height = size;
    const context = canvas.getContext('2d'); context.fillStyle = getComputedStyle(svg.querySelector('rect')).fill;
    context.fillRect(0, 0, size, size); context.fillStyle = getComputedStyle(svg.querySelector('path')).fill;
    context.fill(new Path2D(svg.querySelector('path').getAttribute('d')));
    const {data} = context.getImageData(0, 0, size, size);
    return Array.from({length: size}, (_, y) => Array.from({length: size}, (_, x) => data[4 * (y * size + x)] < 128 ? '#' : '.').join(''))";

/// What a camera reads off the page.
async fn read_qr(browser: &Browser) -> String {
    let painted: Vec<String> = serde_json::from_value(browser.script(PAINTED).await).unwrap();
    let dark = |x: usize, y: usize| painted[y].as_bytes()[x] == b'#';
    // Its upper left corner is dark, and what is before that is left free.
    let quiet = (0..painted.len()).find(|at| dark(*at, *at)).unwrap();
    assert!(quiet >= 4, "{painted:#?}");
    let grid = rqrr::SimpleGrid::from_func(painted.len() - 2 * quiet, |x, y| dark(x + quiet, y + quiet));
    rqrr::Grid::new(grid).decode().unwrap().1
}

async fn pictures(browser: &Browser, name: &str) {
    let mut faults = Vec::new();
    for (look, scheme, width) in [
        ("phone", "light", 380),
        ("dark", "dark", 1280),
        ("light", "light", 1280),
    ] {
        browser.prefer(scheme).await;
        browser.width(width).await;
        browser.picture(&format!("{name}-{look}")).await;
        let found = browser.faults(AXE).await;
        faults.extend(found.into_iter().map(|fault| format!("{name}, {look}: {fault}")));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// What somebody types at the door, and what they see then.
async fn signs_in(browser: &Browser, email: &str, password: &str, code: &str, sees: &str) {
    browser.replace("input[name=email]", email).await;
    browser.fill("input[name=password]", password).await;
    if !code.is_empty() {
        browser.fill("input[name=code]", code).await;
    }
    browser.click("button.main").await;
    browser.sees(sees).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_looks_after_their_account() {
    let Some(browser) = Browser::open().await else { return };
    let world = World::without_worker().await;
    let ops = Dashboard::start(&world.state).await;
    let desk = Desk::of(&browser, &ops, &world, Role::Operator).await;
    let email = desk.email.clone();
    // Later, so that a code is of another step than the one before.
    let next = |secret: &str| {
        world.clock.advance(TimeDelta::seconds(60));
        operators::code_at(secret, world.clock.now()).unwrap()
    };
    let key = async || -> String {
        let key = browser
            .script("return document.querySelector('.key').textContent")
            .await;
        key.as_str().unwrap().to_owned()
    };
    let (begin, confirm) = ("/ops/account/authenticator", "/ops/account/authenticator/confirm");

    // An authenticator, and a sign-in that takes its code.
    desk.opens("/ops/account").await;
    desk.submits(
        begin,
        &[("proof", "not the password")],
        "neither your password nor a code",
    )
    .await;
    desk.opens("/ops/account").await;
    desk.submits(begin, &[("proof", PASSWORD)], "Read the code below").await;
    let first = key().await;
    let url = read_qr(&browser).await;
    assert!(
        url.starts_with("otpauth://totp/Roost:") && url.contains(&format!("secret={first}")),
        "{url}"
    );
    pictures(&browser, "account-key").await;
    desk.submits(
        confirm,
        &[("code", &next(&first))],
        "from now on signing in takes a code of it",
    )
    .await;
    desk.is_written("operator.totp_on", &email, None).await;
    pictures(&browser, "account-on").await;
    browser.click("form.who button").await;
    browser.sees("The first admin is made with").await;
    signs_in(&browser, &email, PASSWORD, "", "is not right").await;
    signs_in(&browser, &email, PASSWORD, &next(&first), "Overview").await;

    // Another one instead, on the strength of a code; the one before is of no use then.
    desk.opens("/ops/account").await;
    desk.submits(begin, &[("proof", &next(&first))], "Read the code below")
        .await;
    let second = key().await;
    assert_ne!(second, first);
    desk.submits(
        confirm,
        &[("code", &next(&second))],
        "from now on signing in takes a code of it",
    )
    .await;
    desk.is_written("operator.totp_replace", &email, None).await;

    // A session elsewhere is ended by its button, another one by another password.
    let elsewhere = ops.opens(&email, PASSWORD, &next(&second)).await;
    desk.opens("/ops/account").await;
    browser.click("form[action$='/end'] button").await;
    browser.sees("Ended: whoever used it has to sign in again.").await;
    assert!(!browser.has("form[action$='/end']").await);
    desk.is_written("operator.session_end", &email, None).await;
    assert_eq!(elsewhere.get("/ops").await.location, "/ops/login");
    let elsewhere = ops.opens(&email, PASSWORD, &next(&second)).await;
    desk.opens("/ops/account").await;
    pictures(&browser, "account-sessions").await;
    let passwords = |current| [("current_password", current), ("new_password", NEW)];
    let change = "/ops/account/password";
    desk.submits(change, &passwords("not the password"), "current password is not right")
        .await;
    desk.opens("/ops/account").await;
    desk.submits(
        change,
        &passwords(PASSWORD),
        "Password changed. Your other sessions have ended.",
    )
    .await;
    desk.is_written("operator.password", &email, None).await;
    assert_eq!(elsewhere.get("/ops").await.location, "/ops/login");
    browser.click("form.who button").await;
    browser.sees("The first admin is made with").await;
    signs_in(&browser, &email, PASSWORD, &next(&second), "is not right").await;
    signs_in(&browser, &email, NEW, &next(&second), "Overview").await;

    // And without an authenticator again.
    desk.opens("/ops/account").await;
    desk.submits(
        "/ops/account/authenticator/remove",
        &[("proof", NEW)],
        "Removed: signing in takes the password alone.",
    )
    .await;
    desk.is_written("operator.totp_off", &email, None).await;
    browser.click("form.who button").await;
    browser.sees("The first admin is made with").await;
    signs_in(&browser, &email, NEW, "", "Overview").await;
    desk.audit_lists(&[
        "operator.totp_on",
        "operator.totp_replace",
        "operator.session_end",
        "operator.password",
        "operator.totp_off",
    ])
    .await;
    browser.close().await;
}
