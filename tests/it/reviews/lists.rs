//! Lists of reviews: every page, in every order, by an index.

use sqlx::PgPool;
use uuid::Uuid;

use super::Scene;

#[tokio::test(flavor = "multi_thread")]
async fn lists_go_from_page_to_page_in_every_order() {
    let scene = Scene::set().await;
    let world = &scene.world;
    let booking = scene.ended_stay(&scene.guest).await;
    fill(world.pool(), booking, 57).await;
    for sort in ["newest", "highest", "lowest"] {
        let mut path = format!("/reviews/?property_id={}&sort={sort}&limit=10", scene.flat);
        let mut found: Vec<(i64, String, String)> = Vec::new();
        loop {
            let page = world.get(&path).send().await.expect(200);
            for item in page["items"].as_array().unwrap() {
                let text = |name: &str| item[name].as_str().unwrap().to_owned();
                found.push((item["rating"].as_i64().unwrap(), text("published_at"), text("id")));
            }
            match page["next"].as_str() {
                Some(next) => path = next.to_owned(),
                None => break,
            }
        }
        assert_eq!(found.len(), 57, "{sort}");
        let mut sorted = found.clone();
        sorted.sort_by(|a, b| {
            let newest = (&b.1, &b.2).cmp(&(&a.1, &a.2));
            match sort {
                "highest" => b.0.cmp(&a.0).then(newest),
                "lowest" => a.0.cmp(&b.0).then(newest),
                _ => newest,
            }
        });
        assert_eq!(found, sorted, "{sort}");
        sorted.dedup();
        assert_eq!(sorted.len(), 57, "{sort}");
    }
    let five = scene
        .list(
            &scene.guest,
            &format!("subject_id={}&rating=5&limit=100", scene.host.id),
        )
        .await;
    assert!(!five.is_empty() && five.iter().all(|item| item["rating"] == 5));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_list_reads_a_whole_table() {
    use roost_shared::reviews::{Filter, Order, Position, store::plan};

    let scene = Scene::set().await;
    let pool = scene.world.pool();
    let booking = scene.ended_stay(&scene.guest).await;
    fill(pool, booking, 20_000).await;
    scatter(pool).await;
    let mut conn = pool.acquire().await.unwrap();
    let [flat, host, guest] = [
        scene.flat,
        scene.host.id.parse().unwrap(),
        scene.guest.id.parse().unwrap(),
    ];
    let after = Some(Position {
        overall: 3,
        shown_at: scene.world.clock.now(),
        id: Uuid::max(),
    });
    for viewer_id in [None, Some(guest)] {
        for (property_id, author_id, subject_id) in [
            (None, None, None),
            (Some(flat), None, None),
            (None, Some(guest), None),
            (None, None, Some(host)),
            (Some(Uuid::nil()), None, None),
        ] {
            for order in [Order::Newest, Order::Highest, Order::Lowest] {
                for overall in [None, Some(2)] {
                    for after in [None, after] {
                        let narrowed = property_id.is_some() || author_id.is_some() || subject_id.is_some();
                        if !narrowed && order != Order::Newest {
                            continue;
                        }
                        let filter = Filter {
                            viewer_id,
                            property_id,
                            author_id,
                            subject_id,
                            overall,
                            order,
                            after,
                            side: None,
                        };
                        let plan = plan(&mut conn, &filter, 21).await.unwrap().join("\n");
                        assert!(
                            plan.contains("reviews_") && !plan.contains("Seq Scan on reviews"),
                            "{filter:?}\n{plan}"
                        );
                    }
                }
            }
        }
    }
}

/// Published reviews of one place, each of a booking of its own.
pub(super) async fn fill(pool: &PgPool, booking: Uuid, count: i32) {
    sqlx::query(
        "WITH stays AS (
             INSERT INTO bookings (id, property_id, guest_id, host_id, state, stay, guests, instant_book, cancellation_policy, time_zone,
                 check_in_from, check_out_by, currency, price_lines, total_minor, host_fee_minor, hold_expires_at, created_at, updated_at)
             SELECT gen_random_uuid(), property_id, guest_id, host_id, 'expired', stay, guests, instant_book, cancellation_policy, time_zone,
                 check_in_from, check_out_by, currency, price_lines, total_minor, host_fee_minor, hold_expires_at, created_at, updated_at
             FROM bookings, generate_series(1, $2) WHERE id = $1
             RETURNING id, property_id, guest_id, host_id)
         INSERT INTO reviews (id, booking_id, property_id, side, author_id, subject_id, overall, text, created_at, published_at)
         SELECT gen_random_uuid(), id, property_id, 'guest', guest_id, host_id, 1 + n % 5, 'As good as it gets.', now(),
             now() - make_interval(secs => n * 7919 % 20)
         FROM (SELECT *, row_number() OVER ()::int AS n FROM stays) AS numbered",
    )
    .bind(booking)
    .bind(count)
    .execute(pool)
    .await
    .unwrap();
}

/// The same reviews of many places, by many guests, of many hosts.
pub(super) async fn scatter(pool: &PgPool) {
    sqlx::raw_sql(
        "INSERT INTO users (id, email, password_hash, full_name, role, created_at, updated_at)
             SELECT lpad(to_hex(n), 32, '0')::uuid, n || '@example.org', '', 'Somebody', 'host', now(), now() FROM generate_series(1, 600) n;
         INSERT INTO properties
             SELECT (jsonb_populate_record(NULL::properties, p.row || jsonb_build_object('id', lpad(to_hex(n), 32, '0')))).*
             FROM (SELECT to_jsonb(properties) AS row FROM properties LIMIT 1) p, generate_series(1, 300) n;
         UPDATE reviews SET property_id = lpad(to_hex(1 + n % 300), 32, '0')::uuid, subject_id = lpad(to_hex(1 + n % 200), 32, '0')::uuid,
             author_id = lpad(to_hex(201 + n % 400), 32, '0')::uuid
         FROM (SELECT id, row_number() OVER ()::int AS n FROM reviews) AS numbered
         WHERE reviews.id = numbered.id AND n > 200;
         ANALYZE reviews, users",
    )
    .execute(pool)
    .await
    .unwrap();
}
