//! What is said about a stay once a side, in 10 to 2,000 characters, and what is left of what was taken back: the API
//! says so, and Postgres, whoever writes.

use chrono::{DateTime, Utc};
use roost_tests::app::{Actor, Reply};
use roost_tests::world::id_of;
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

use super::{Scene, WORDS, sums_are_exact};

const WAITING: &str =
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";

/// A copy of a review, changed, by SQL.
const COPY: &str = "INSERT INTO reviews (id, booking_id, property_id, side, author_id, subject_id, overall, text, created_at)
     SELECT $2, booking_id, property_id, side, author_id, subject_id, overall, $3, created_at FROM reviews WHERE id = $1";

async fn copy(pool: &PgPool, review: Uuid, text: &str) -> Result<Uuid, sqlx::Error> {
    let id = Uuid::now_v7();
    let insert = sqlx::query(COPY).bind(review).bind(id).bind(text);
    insert.execute(pool).await.map(|_| id)
}

/// The constraint that refused this.
#[track_caller]
fn refused_by<T>(outcome: Result<T, sqlx::Error>) -> String {
    let Err(sqlx::Error::Database(error)) = outcome else {
        panic!("it was not refused by Postgres")
    };
    error.constraint().unwrap_or_else(|| panic!("{error}")).to_owned()
}

impl Scene {
    async fn says(&self, author: &Actor, booking: Uuid, text: &str) -> Reply {
        let body = json!({"booking_id": booking, "rating": 5, "text": text});
        self.world.post("/reviews/", body).by(author).send().await
    }

    /// Of a review that is not published: when it was taken back, and its words.
    async fn kept(&self, review: Uuid) -> (Option<DateTime<Utc>>, String) {
        let kept = "SELECT deleted_at, text FROM reviews WHERE id = $1 AND published_at IS NULL";
        let kept = sqlx::query_as(kept).bind(review);
        kept.fetch_one(self.world.pool()).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_characters_are_enough_and_two_thousand_are_allowed_whatever_their_bytes() {
    let scene = Scene::set().await;
    let (world, guest) = (&scene.world, &scene.guest);
    let booking = scene.ended_stay(guest).await;
    for character in ["x", "ü", "語", "🏡"] {
        for length in [10, 2_000] {
            let text = character.repeat(length);
            let written = scene.says(guest, booking, &text).await.expect(201);
            assert_eq!(written["text"], text, "{length} times {character}");
            let path = format!("/reviews/{}", id_of(&written));
            let other = text.replace(character, "é");
            let changed = world.patch(&path, json!({"text": other})).by(guest).send().await;
            assert_eq!(changed.expect(200)["text"], other);
            assert_eq!(world.delete(&path).by(guest).send().await.status, 204);
        }
    }
    let trimmed = scene.says(guest, booking, " \n0123456789\t ").await.expect(201);
    assert_eq!(trimmed["text"], "0123456789");
    let path = format!("/reviews/{}", id_of(&trimmed));
    for (text, status, code) in [
        ("ü".repeat(9), 400, "invalid_body"),
        ("🏡".repeat(9), 400, "invalid_body"),
        (format!(" {}\n", "ü".repeat(9)), 422, "validation_failed"),
        (format!("{}🏡", " ".repeat(10)), 422, "validation_failed"),
        ("x".repeat(2_001), 400, "invalid_body"),
        ("🏡".repeat(2_001), 400, "invalid_body"),
    ] {
        let written = scene.says(&scene.host, booking, &text).await;
        written.refused_field(status, code, "text");
        let changed = world.patch(&path, json!({"text": text})).by(guest).send().await;
        changed.refused_field(status, code, "text");
    }
    assert_eq!(
        scene.read(guest, id_of(&trimmed)).await.expect(200)["text"],
        "0123456789"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_taken_back_stays_as_a_row_that_nothing_is_done_with() {
    let scene = Scene::set().await;
    let (world, guest, pool) = (&scene.world, &scene.guest, scene.world.pool());
    let booking = scene.ended_stay(guest).await;
    let first = id_of(&scene.says(guest, booking, WORDS).await.expect(201));
    assert_eq!(scene.kept(first).await, (None, WORDS.to_owned()));
    let path = format!("/reviews/{first}");
    assert_eq!(world.delete(&path).by(guest).send().await.status, 204);
    let (deleted_at, text) = scene.kept(first).await;
    let since = world.clock.now() - deleted_at.expect("it says when");
    assert!((0..60).contains(&since.num_seconds()), "{since}");
    assert_eq!(text, WORDS, "its words are kept");

    // Nobody reads, changes or takes it back again, nor does it come to light with the host's.
    for reader in [guest, &scene.host] {
        scene.read(reader, first).await.refused(404, "not_found");
        let change = world.patch(&path, json!({"rating": 1})).by(reader).send().await;
        change.refused(404, "not_found");
        world.delete(&path).by(reader).send().await.refused(404, "not_found");
    }
    let second = id_of(&scene.writes(guest, booking, 2).await.expect(201));
    scene.writes(&scene.host, booking, 5).await.expect(201);
    world.run_jobs().await;
    assert_eq!(scene.kept(first).await, (deleted_at, text));
    let of_flat = scene.list(&scene.host, &format!("property_id={}", scene.flat)).await;
    assert_eq!(of_flat.iter().map(id_of).collect::<Vec<_>>(), [second]);
    let summary = scene.summary(&format!("property_id={}", scene.flat)).await;
    assert_eq!((&summary["review_count"], &summary["rating"]), (&json!(1), &json!(2.0)));
    sums_are_exact(pool).await;

    // Postgres does not let it be published, nor what was published be taken back; its words have their length as well.
    for (statement, review, constraint) in [
        (
            "UPDATE reviews SET published_at = now() WHERE id = $1",
            first,
            "reviews_delete_unpublished",
        ),
        (
            "UPDATE reviews SET deleted_at = now() WHERE id = $1",
            second,
            "reviews_delete_unpublished",
        ),
        (
            "UPDATE reviews SET text = repeat('ü', 9) WHERE id = $1",
            first,
            "reviews_text_length",
        ),
        (
            "UPDATE reviews SET text = repeat('🏡', 2001) WHERE id = $1",
            first,
            "reviews_text_length",
        ),
    ] {
        let outcome = sqlx::query(statement).bind(review).execute(pool).await;
        assert_eq!(refused_by(outcome), constraint, "{statement}");
    }
    for length in [10, 2_000] {
        let statement = "UPDATE reviews SET text = repeat('🏡', $2) WHERE id = $1";
        let update = sqlx::query(statement).bind(first).bind(length);
        update.execute(pool).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_side_has_one_review_and_postgres_says_so_last() {
    let scene = Scene::set().await;
    let (world, guest, pool) = (&scene.world, &scene.guest, scene.world.pool());
    let booking = scene.ended_stay(guest).await;
    world.run_jobs().await;

    // At once: both wait for the booking's window.
    let mut gate = roost_shared::db::begin(pool).await.unwrap();
    sqlx::query("SELECT FROM review_windows WHERE booking_id = $1 FOR UPDATE")
        .bind(booking)
        .execute(&mut *gate)
        .await
        .unwrap();
    let body = json!({"booking_id": booking, "rating": 5, "text": WORDS});
    let both = [(); 2].map(|()| tokio::spawn(world.post("/reviews/", body.clone()).by(guest).send()));
    world
        .eventually("both wait", async || world.counts(WAITING).await == 2)
        .await;
    gate.rollback().await.unwrap();
    let mut replies = Vec::new();
    for one in both {
        replies.push(one.await.unwrap());
    }
    replies.sort_by_key(|reply| reply.status);
    let written = id_of(&replies[0].expect(201));
    let refused = replies[1].refused(409, "already_reviewed");
    assert_eq!(refused["review_id"], written.to_string());

    // By SQL: a second one of the guest is refused, not one that was taken back.
    assert_eq!(refused_by(copy(pool, written, WORDS).await), "reviews_one_per_side");
    let taken_back = world.delete(&format!("/reviews/{written}")).by(guest).send().await;
    assert_eq!(taken_back.status, 204);
    let copied = copy(pool, written, "Somebody wrote past the API.").await.unwrap();
    assert_eq!(refused_by(copy(pool, written, WORDS).await), "reviews_one_per_side");

    // Whoever does not wait for the window: the constraint is what the request runs into.
    sqlx::query("DELETE FROM reviews WHERE id = $1")
        .bind(copied)
        .execute(pool)
        .await
        .unwrap();
    let mut past = roost_shared::db::begin(pool).await.unwrap();
    let insert = sqlx::query(COPY).bind(written).bind(Uuid::now_v7()).bind(WORDS);
    insert.execute(&mut *past).await.unwrap();
    let late = tokio::spawn(world.post("/reviews/", body).by(guest).send());
    world
        .eventually("the request waits", async || world.counts(WAITING).await == 1)
        .await;
    past.commit().await.unwrap();
    let refused = late.await.unwrap().refused(409, "already_reviewed");
    assert_eq!(refused["review_id"], Value::Null);
    let live = "SELECT count(*) FROM reviews WHERE deleted_at IS NULL";
    assert_eq!(world.counts(live).await, 1);
}
