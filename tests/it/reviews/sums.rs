//! Every category is summed on its own, and in the transaction that makes the review public.

use roost_tests::app::Actor;
use roost_tests::stars::wrong_sums;
use roost_tests::world::id_of;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Scene, WORDS, sums_are_exact};

/// The categories with these stars, in this order.
fn categories<T: Into<Value>>(stars: [T; 6]) -> Value {
    let names = [
        "cleanliness",
        "accuracy",
        "check_in",
        "communication",
        "location",
        "value",
    ];
    let rated = names.into_iter().zip(stars);
    Value::Object(rated.map(|(name, stars)| (name.to_owned(), stars.into())).collect())
}

impl Scene {
    /// Writes a review with these stars, and looks whether each is where it was given.
    async fn rates(&self, author: &Actor, booking: Uuid, given: &Value) -> Uuid {
        let body = json!({"booking_id": booking, "rating": 4, "categories": given, "text": WORDS});
        let written = self.world.post("/reviews/", body).by(author).send().await.expect(201);
        for (category, stars) in given.as_object().unwrap() {
            assert_eq!(&written["categories"][category], stars, "{category}");
        }
        id_of(&written)
    }

    /// How many reviews are public, how many reviews all sums of stars count, and how many the pages of properties do.
    async fn public(&self) -> (i64, i64, i64) {
        sqlx::query_as(
            "SELECT (SELECT count(*) FROM reviews WHERE published_at IS NOT NULL),
                    (SELECT coalesce(sum(counted), 0) FROM ratings, unnest(overall::int[]) AS counted),
                    (SELECT sum(review_count) FROM properties)",
        )
        .fetch_one(self.world.pool())
        .await
        .unwrap()
    }

    /// Guest and host have written about a booking, and it has come to nothing yet.
    async fn nothing_is_public_of(&self, booking: Uuid, before: (i64, i64, i64)) {
        assert_eq!(self.public().await, before);
        assert_eq!(wrong_sums(self.world.pool()).await.unwrap(), Vec::<String>::new());
        let (written, public, settled): (i64, i64, bool) = sqlx::query_as(
            "SELECT (SELECT count(*) FROM reviews WHERE booking_id = $1),
                    (SELECT count(*) FROM reviews WHERE booking_id = $1 AND published_at IS NOT NULL),
                    (SELECT settled_at IS NOT NULL FROM review_windows WHERE booking_id = $1)",
        )
        .bind(booking)
        .fetch_one(self.world.pool())
        .await
        .unwrap();
        assert_eq!((written, public, settled), (2, 0, false));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_category_has_a_sum_of_its_own_for_property_host_and_guest() {
    let scene = Scene::set().await;
    let (world, host) = (&scene.world, &scene.host);
    let another = world.lists(host, json!({"title": "Garden house"})).await;
    // No two categories were given the same stars, taken together.
    let given = [
        (scene.flat, [1, 2, 3, 4, 5, 1]),
        (scene.flat, [2, 3, 4, 5, 1, 3]),
        (another, [4; 6]),
    ];
    let mut of_guests = Vec::new();
    for (flat, stars) in given {
        let guest = world.guest().await;
        let booking = scene.ended_stay_at(&guest, flat).await;
        let review = scene.rates(&guest, booking, &categories(stars)).await;
        let of_guest = json!({"cleanliness": 2, "communication": 5});
        scene.rates(host, booking, &of_guest).await;
        of_guests.push((guest, review));
    }
    world.run_jobs().await;
    let means = async |query: String| {
        let summary = scene.summary(&query).await;
        (summary["review_count"].clone(), summary["categories"].clone())
    };
    let (of_flat, of_host) = (format!("property_id={}", scene.flat), format!("host_id={}", host.id));
    assert_eq!(
        means(of_flat.clone()).await,
        (json!(2), categories([1.5, 2.5, 3.5, 4.5, 3.0, 2.0]))
    );
    assert_eq!(
        means(of_host.clone()).await,
        (json!(3), categories([2.33, 3.0, 3.67, 4.33, 3.33, 2.67]))
    );
    let (guest, second) = (&of_guests[0].0, of_guests[1].1);
    let null = Value::Null;
    let (two, five) = (json!(2.0), json!(5.0));
    assert_eq!(
        means(format!("guest_id={}", guest.id)).await,
        (
            json!(1),
            categories([two, null.clone(), null.clone(), five, null.clone(), null])
        )
    );
    sums_are_exact(world.pool()).await;

    // What is hidden is taken out of each.
    let moderator = scene.moderator().await;
    let hide = world.post(&format!("/reviews/{second}/hide"), json!({"reason": "Untrue."}));
    hide.by(&moderator).send().await.expect(200);
    assert_eq!(
        means(of_flat).await,
        (json!(1), categories([1.0, 2.0, 3.0, 4.0, 5.0, 1.0]))
    );
    assert_eq!(
        means(of_host).await,
        (json!(2), categories([2.5, 3.0, 3.5, 4.0, 4.5, 2.5]))
    );
    sums_are_exact(world.pool()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_sees_a_review_before_its_stars_count_nor_stars_before_their_review() {
    let scene = Scene::set().await;
    let world = &scene.world;
    // What publication writes first, and what it writes last: it is stopped there.
    for table in ["review_windows", "ratings", "properties", "booking_events"] {
        let guest = world.guest().await;
        let booking = scene.ended_stay(&guest).await;
        world.run_jobs().await;
        let first = id_of(&scene.writes(&guest, booking, 5).await.expect(201));
        let before = scene.public().await;
        let mut gate = roost_shared::db::begin(world.pool()).await.unwrap();
        // Others may read it, and lock its rows.
        let statement = format!("LOCK TABLE {table} IN SHARE MODE");
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement))
            .execute(&mut *gate)
            .await
            .unwrap();
        scene.writes(&scene.host, booking, 3).await.expect(201);
        let waiting =
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        world
            .eventually("publication waits", async || world.counts(waiting).await == 1)
            .await;
        scene.nothing_is_public_of(booking, before).await;
        scene.read(&scene.host, first).await.refused(404, "not_found");

        gate.rollback().await.unwrap();
        world.run_jobs().await;
        let (reviews, counted, shown) = before;
        // The guest's is counted for the property and its host, the host's for the guest.
        assert_eq!(scene.public().await, (reviews + 2, counted + 3, shown + 1), "{table}");
        sums_are_exact(world.pool()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stars_that_cannot_be_counted_publish_nothing_and_what_is_not_published_is_not_counted() {
    let scene = Scene::set().await;
    let world = &scene.world;
    sqlx::raw_sql(
        "CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'spoilt by the test'; END $$",
    )
    .execute(world.pool())
    .await
    .unwrap();
    for (table, spoil) in [
        (
            "ratings",
            "CREATE TRIGGER spoilt BEFORE UPDATE ON ratings FOR EACH ROW EXECUTE FUNCTION spoil()",
        ),
        // At the end of the transaction, when the stars have been counted.
        (
            "reviews",
            "CREATE CONSTRAINT TRIGGER spoilt AFTER UPDATE ON reviews DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION spoil()",
        ),
    ] {
        let guest = world.guest().await;
        let booking = scene.ended_stay(&guest).await;
        world.run_jobs().await;
        let before = scene.public().await;
        sqlx::raw_sql(spoil).execute(world.pool()).await.unwrap();
        for (author, stars) in [(&guest, 2), (&scene.host, 4)] {
            scene.writes(author, booking, stars).await.expect(201);
        }
        let tried = "SELECT count(*) FROM jobs WHERE kind = 'review.publish' AND state <> 'succeeded' AND last_error LIKE '%spoilt by the test%'";
        world
            .eventually("publication was refused", async || world.counts(tried).await == 1)
            .await;
        scene.nothing_is_public_of(booking, before).await;

        let heal = format!("DROP TRIGGER spoilt ON {table}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(heal))
            .execute(world.pool())
            .await
            .unwrap();
        world.run_jobs().await;
        let (reviews, counted, shown) = before;
        assert_eq!(scene.public().await, (reviews + 2, counted + 3, shown + 1), "{table}");
        sums_are_exact(world.pool()).await;
    }
}
