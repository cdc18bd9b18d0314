//! People come, change, and leave.

use futures::future::join_all;
use roost_shared::users;
use roost_tests::app::{PASSWORD, TestApp};
use serde_json::{Value, json};
use uuid::Uuid;

fn ada() -> Value {
    json!({"email": "Ada@Example.com", "password": PASSWORD, "full_name": " Ada Lovelace ", "role": "guest", "locale": "en-GB"})
}

#[tokio::test]
async fn somebody_registers_signs_in_and_sees_their_profile() {
    let app = TestApp::start().await;
    let reply = app.post("/users/", ada()).send().await;
    let profile = reply.expect(201);
    assert_eq!(
        reply.header("location"),
        format!("/users/{}", profile["id"].as_str().unwrap())
    );
    assert_eq!(profile["email"], "ada@example.com");
    assert_eq!(profile["full_name"], "Ada Lovelace");
    assert_eq!(profile["email_verified"], false);
    assert_eq!(profile["locale"], "en-GB");
    assert!(!reply.text().contains(PASSWORD));
    assert_eq!(app.jobs_of("mail.send").await, 1);

    let ada = app.login("ADA@example.COM", PASSWORD).await;
    let own = app.get("/users/me").by(&ada).send().await.expect(200);
    assert_eq!(own, profile);
    let by_id = app
        .get(&format!("/users/{}/", ada.id))
        .by(&ada)
        .send()
        .await
        .expect(200);
    assert_eq!(by_id, profile);
}

#[tokio::test]
async fn others_see_only_the_public_profile() {
    let app = TestApp::start().await;
    let (host, guest) = (app.host().await, app.guest().await);
    let seen = app
        .get(&format!("/users/{}", host.id))
        .by(&guest)
        .send()
        .await
        .expect(200);
    assert_eq!(seen["first_name"], "Heinz");
    assert_eq!(seen["role"], "host");
    assert_eq!(seen["joined"].as_str().unwrap().len(), 7);
    let mut members: Vec<&String> = seen.as_object().unwrap().keys().collect();
    members.sort();
    assert_eq!(members, ["first_name", "id", "joined", "role"]);
    app.get(&format!("/users/{}", Uuid::nil()))
        .by(&guest)
        .send()
        .await
        .refused(404, "not_found");
    app.get("/users/nobody")
        .by(&guest)
        .send()
        .await
        .refused_field(400, "invalid_parameter", "user_id");
    app.get(&format!("/users/{}", host.id))
        .send()
        .await
        .refused(401, "unauthorized");
}

#[tokio::test]
async fn an_address_registers_once() {
    let app = TestApp::start().await;
    app.post("/users", ada()).send().await.expect(201);
    app.post("/users", ada()).send().await.refused(409, "email_taken");
    let attempts = (0..8).map(|_| {
        let body = json!({"email": "race@example.com", "password": PASSWORD, "full_name": "R", "role": "host"});
        app.post("/users", body).send()
    });
    let mut statuses: Vec<u16> = join_all(attempts).await.iter().map(|reply| reply.status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 409, 409, 409, 409, 409, 409, 409]);
    assert_eq!(app.jobs_of("mail.send").await, 2);
}

#[tokio::test]
async fn a_registration_is_checked_field_by_field() {
    let app = TestApp::start().await;
    let with = |field: &str, value: Value| {
        let mut body = ada();
        body[field] = value;
        body
    };
    let long = "x".repeat(300);
    let by_schema = [
        ("email", json!(5)),
        ("email", json!("")),
        ("email", Value::Null),
        ("email", json!(long)),
        ("password", json!("too short")),
        ("password", json!(long)),
        ("password", json!(["a"])),
        ("password", json!(true)),
        ("full_name", json!("")),
        ("full_name", json!(long)),
        ("full_name", json!({"first": "Ada"})),
        ("role", json!("admin")),
        ("role", json!("Guest")),
        ("role", json!(1)),
        ("locale", json!(1)),
        ("locale", json!(long)),
        ("admin", json!(true)),
        ("nested", json!({"a": 1})),
    ];
    for (field, value) in by_schema {
        app.post("/users", with(field, value))
            .send()
            .await
            .refused_field(400, "invalid_body", field);
    }
    let by_meaning = [
        ("email", json!("nobody")),
        ("email", json!("a b@example.com")),
        ("email", json!("a@localhost")),
        ("email", json!("ä@example.com")),
        ("password", json!("ada@example.com")),
        ("password", json!("ADA@EXAMPLE.COM")),
        ("full_name", json!("   ")),
        ("full_name", json!("Ada\u{7}Lovelace")),
        ("locale", json!("english")),
        ("locale", json!("e!")),
    ];
    for (field, value) in by_meaning {
        app.post("/users", with(field, value))
            .send()
            .await
            .refused_field(422, "validation_failed", field);
    }
    for field in ["email", "password", "full_name", "role"] {
        let mut body = ada();
        body.as_object_mut().unwrap().remove(field);
        app.post("/users", body)
            .send()
            .await
            .refused_field(400, "invalid_body", field);
    }
    // One reply tells everything that is wrong.
    let all = app
        .post("/users", json!({"email": 1, "password": "short", "extra": 1}))
        .send()
        .await;
    for field in ["email", "password", "full_name", "role", "extra"] {
        all.refused_field(400, "invalid_body", field);
    }
    let meanings = app
        .post(
            "/users",
            json!({"email": "x@y", "password": PASSWORD, "full_name": " ", "role": "guest"}),
        )
        .send()
        .await;
    for field in ["email", "full_name"] {
        meanings.refused_field(422, "validation_failed", field);
    }
    assert_eq!(app.jobs_of("mail.send").await, 0);
}

#[tokio::test]
async fn a_profile_is_changed_by_its_owner_only() {
    let app = TestApp::start().await;
    let (ada, eve) = (app.guest().await, app.guest().await);
    let changed = app
        .patch("/users/me", json!({"full_name": "Countess Lovelace"}))
        .by(&ada)
        .send()
        .await
        .expect(200);
    assert_eq!(changed["full_name"], "Countess Lovelace");
    assert_eq!(changed["locale"], "en");
    let path = format!("/users/{}", ada.id);
    let changed = app
        .patch(&path, json!({"locale": "de", "full_name": null}))
        .by(&ada)
        .send()
        .await
        .expect(200);
    assert_eq!(
        (&changed["full_name"], &changed["locale"]),
        (&json!("Countess Lovelace"), &json!("de"))
    );
    assert_eq!(
        app.patch(&path, json!({})).by(&ada).send().await.expect(200)["locale"],
        "de"
    );

    app.patch(&path, json!({"full_name": "Eve"}))
        .by(&eve)
        .send()
        .await
        .refused(403, "forbidden");
    app.delete(&path).by(&eve).send().await.refused(403, "forbidden");
    app.patch(&path, json!({"full_name": "x"}))
        .send()
        .await
        .refused(401, "unauthorized");
    for (body, code, status, field) in [
        (json!({"role": "admin"}), "invalid_body", 400, "role"),
        (json!({"email": "new@example.com"}), "invalid_body", 400, "email"),
        (json!({"full_name": 1}), "invalid_body", 400, "full_name"),
        (json!({"full_name": ""}), "invalid_body", 400, "full_name"),
        (
            json!({"full_name": "a".repeat(1_000)}),
            "invalid_body",
            400,
            "full_name",
        ),
        (json!({"role": 1}), "invalid_body", 400, "role"),
        (json!({"locale": ["de"]}), "invalid_body", 400, "locale"),
        (json!({"locale": "d".repeat(1_000)}), "invalid_body", 400, "locale"),
        (json!({"extra": true}), "invalid_body", 400, "extra"),
        (json!({"full_name": "  "}), "validation_failed", 422, "full_name"),
        (json!({"locale": "!!"}), "validation_failed", 422, "locale"),
    ] {
        app.patch("/users/me", body)
            .by(&ada)
            .send()
            .await
            .refused_field(status, code, field);
    }
}

#[tokio::test]
async fn a_guest_becomes_a_host_and_stays_one() {
    let app = TestApp::start().await;
    let ada = app.guest().await;
    let change = |role: &str| app.patch("/users/me", json!({"role": role})).by(&ada).send();
    assert_eq!(change("guest").await.expect(200)["role"], "guest");
    assert_eq!(change("host").await.expect(200)["role"], "host");
    change("guest").await.refused(409, "stays_host");
    assert_eq!(app.get("/users/me").by(&ada).send().await.expect(200)["role"], "host");
}

#[tokio::test]
async fn a_new_password_ends_the_other_sessions() {
    let app = TestApp::start().await;
    let phone = app.guest().await;
    let laptop = app.login(&phone.email, PASSWORD).await;
    let change = |current: &str, new: &str| {
        app.post(
            "/users/me/password",
            json!({"current_password": current, "new_password": new}),
        )
        .by(&laptop)
    };
    change("not the password", "a new long password")
        .send()
        .await
        .refused(422, "wrong_password");
    change(PASSWORD, "short")
        .send()
        .await
        .refused_field(400, "invalid_body", "new_password");
    change(PASSWORD, PASSWORD)
        .send()
        .await
        .refused_field(422, "validation_failed", "new_password");
    change(PASSWORD, &phone.email)
        .send()
        .await
        .refused_field(422, "validation_failed", "new_password");
    change(PASSWORD, "a new long password").send().await.expect(204);

    app.get("/users/me")
        .by(&phone)
        .send()
        .await
        .refused(401, "invalid_token");
    app.get("/users/me").by(&laptop).send().await.expect(200);
    let with = |password: &str| app.post("/auth/login", json!({"email": phone.email, "password": password}));
    with(PASSWORD).send().await.refused(401, "invalid_credentials");
    with("a new long password").send().await.expect(200);
}

#[tokio::test]
async fn who_leaves_is_forgotten_but_not_before_the_bookings_are_over() {
    let app = TestApp::start().await;
    let (host, guest, other) = (app.host().await, app.guest().await, app.guest().await);
    let property = Uuid::from_u128(1);
    let booking = Uuid::from_u128(2);
    sqlx::query(
        "INSERT INTO properties (id, host_id, title, description, city, country, latitude, longitude, time_zone, currency,
             nightly_rate_minor, cleaning_fee_minor, max_guests, bedrooms, beds, bathrooms, amenities, house_rules,
             check_in_from, check_out_by, min_nights, max_nights, instant_book, cancellation_policy, status, created_at, updated_at)
         VALUES ($1, $2, 'Flat', '', 'Ulm', 'DE', 48, 10, 'Europe/Berlin', 'EUR', 100, 0, 2, 1, 1, 1, '{}', '', '15:00', '11:00',
             1, 30, true, 'flexible', 'listed', now(), now())",
    )
    .bind(property)
    .bind(Uuid::parse_str(&host.id).unwrap())
    .execute(app.state.db.pool())
    .await
    .unwrap();
    sqlx::query(
        "INSERT INTO bookings (id, property_id, guest_id, host_id, state, stay, guests, instant_book, cancellation_policy,
             time_zone, check_in_from, check_out_by, currency, price_lines, total_minor, host_fee_minor, hold_expires_at, created_at, updated_at)
         VALUES ($1, $2, $3, $4, 'confirmed', '[2030-06-01,2030-06-04)', 1, true, 'flexible', 'Europe/Berlin', '15:00', '11:00',
             'EUR', '[]', 300, 0, now(), now(), now())",
    )
    .bind(booking)
    .bind(property)
    .bind(Uuid::parse_str(&guest.id).unwrap())
    .bind(Uuid::parse_str(&host.id).unwrap())
    .execute(app.state.db.pool())
    .await
    .unwrap();

    app.delete("/users/me")
        .by(&guest)
        .send()
        .await
        .refused(409, "open_bookings");
    app.delete(&format!("/users/{}", host.id))
        .by(&host)
        .send()
        .await
        .refused(409, "open_bookings");
    sqlx::query("UPDATE bookings SET state = 'completed'")
        .execute(app.state.db.pool())
        .await
        .unwrap();
    app.delete("/users/me").by(&guest).send().await.expect(204);
    app.delete("/users/me").by(&host).send().await.expect(204);

    for gone in [&guest, &host] {
        app.get("/users/me").by(gone).send().await.refused(401, "invalid_token");
        app.get(&format!("/users/{}", gone.id))
            .by(&other)
            .send()
            .await
            .refused(404, "not_found");
        let body = json!({"email": gone.email, "password": PASSWORD});
        app.post("/auth/login", body)
            .send()
            .await
            .refused(401, "invalid_credentials");
        let body = json!({"refresh_token": gone.refresh_token});
        app.post("/auth/refresh", body)
            .send()
            .await
            .refused(401, "invalid_refresh_token");
    }
    let left: Vec<(String, String, String)> =
        sqlx::query_as("SELECT email, full_name, password_hash FROM users WHERE deleted_at IS NOT NULL")
            .fetch_all(app.state.db.pool())
            .await
            .unwrap();
    assert_eq!(left, vec![(String::new(), String::new(), String::new()); 2]);
    let status: String = sqlx::query_scalar("SELECT status FROM properties")
        .fetch_one(app.state.db.pool())
        .await
        .unwrap();
    assert_eq!(status, "archived");
    // The address is free again.
    let again = json!({"email": guest.email, "password": PASSWORD, "full_name": "Grace", "role": "guest"});
    app.post("/users", again).send().await.expect(201);
}

#[tokio::test]
async fn an_address_is_proved_once_and_within_a_day() {
    let app = TestApp::start().await;
    let (ada, eve) = (app.guest().await, app.guest().await);
    let id = Uuid::parse_str(&ada.id).unwrap();
    let token = || async {
        let mut tx = app.state.db.begin().await.unwrap();
        let token = users::create_verification(&mut tx, id).await.unwrap();
        tx.commit().await.unwrap();
        token
    };
    let verify = |token: &str| app.post("/auth/verify-email", json!({"token": token}));
    let (late, good) = (token().await.unwrap(), token().await.unwrap());

    for forged in [
        "",
        "ev_",
        "nonsense",
        "ev_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "ev_!!!",
    ] {
        let status = verify(forged).send().await.status;
        assert!((400..500).contains(&status), "{forged}: {status}");
    }
    verify("ev_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
        .send()
        .await
        .refused(422, "verification_invalid");

    app.post("/auth/verify-email/resend", json!({}))
        .by(&ada)
        .send()
        .await
        .expect(204);
    assert_eq!(app.jobs_of("mail.send").await, 3);

    assert_eq!(verify(&good).send().await.expect(200)["email_verified"], true);
    verify(&good).send().await.refused(422, "verification_invalid");
    assert_eq!(
        app.get("/users/me").by(&ada).send().await.expect(200)["email_verified"],
        true
    );
    assert_eq!(
        app.get("/users/me").by(&eve).send().await.expect(200)["email_verified"],
        false
    );
    assert_eq!(token().await, None);
    app.post("/auth/verify-email/resend", json!({}))
        .by(&ada)
        .send()
        .await
        .refused(409, "already_verified");

    app.clock.advance(chrono::Duration::hours(24));
    verify(&late).send().await.refused(422, "verification_invalid");
}

#[tokio::test]
async fn a_registration_is_repeated_with_its_key_and_done_once() {
    let app = TestApp::start().await;
    let send = |key: &str, body: Value| app.post("/users", body).header("idempotency-key", key).send();
    let first = send("k1", ada()).await;
    first.expect(201);
    assert_eq!(first.header("idempotent-replayed"), "");
    let again = send("k1", ada()).await;
    again.expect(201);
    assert_eq!(again.body, first.body);
    assert_eq!(again.header("location"), first.header("location"));
    assert_eq!(again.header("idempotent-replayed"), "true");

    let mut other = ada();
    other["full_name"] = json!("Somebody Else");
    send("k1", other.clone()).await.refused(422, "idempotency_key_reused");
    // A refusal is not remembered: the key works once the request is right.
    send("k2", other.clone()).await.refused(409, "email_taken");
    other["email"] = json!("else@example.com");
    send("k2", other).await.expect(201);
    for bad in ["", "\u{e4}", &"k".repeat(256)] {
        let reply = app.post("/users", ada()).header("idempotency-key", bad).send().await;
        reply.refused_field(400, "invalid_parameter", "Idempotency-Key");
    }
    assert_eq!(app.jobs_of("mail.send").await, 2);
}

#[tokio::test]
async fn twenty_at_once_with_one_key_get_the_same_reply() {
    let app = TestApp::start().await;
    let replies = join_all((0..20).map(|_| app.post("/users", ada()).header("idempotency-key", "storm").send())).await;
    for reply in &replies {
        reply.expect(201);
        assert_eq!(reply.body, replies[0].body);
    }
    let fresh = replies
        .iter()
        .filter(|reply| reply.header("idempotent-replayed").is_empty())
        .count();
    assert_eq!(fresh, 1);
    assert_eq!(app.jobs_of("mail.send").await, 1);
}

#[tokio::test]
async fn a_key_is_forgotten_after_a_day() {
    let app = TestApp::start().await;
    let send = |email: &str| {
        let body = json!({"email": email, "password": PASSWORD, "full_name": "Ada", "role": "guest"});
        app.post("/users", body).header("idempotency-key", "daily").send()
    };
    let first = send("one@example.com").await.expect(201);
    send("two@example.com").await.refused(422, "idempotency_key_reused");
    app.clock.advance(chrono::Duration::hours(24));
    let second = send("two@example.com").await.expect(201);
    assert_ne!(first["id"], second["id"]);
}
