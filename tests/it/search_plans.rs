//! Every shape of the property search is served by indexes, at a size where reading whole tables would be cheaper
//! for none of them but tempting for some.

use roost_shared::properties::search::{Position, Search, plan, search};
use roost_shared::properties::stay::Stay;
use roost_tests::database::TestDatabase;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

const PROPERTIES: i32 = 20_000;

#[tokio::test]
async fn no_search_reads_a_whole_table() {
    let database = TestDatabase::create().await.unwrap();
    let pool = database.pool().unwrap();
    fill(&pool).await;
    let mut conn = pool.acquire().await.unwrap();
    for shape in shapes() {
        let plan = plan(&mut conn, &shape, 21).await.unwrap().join("\n");
        assert!(plan.contains("Index"), "{shape:?}\n{plan}");
        assert!(!plan.contains("Seq Scan"), "{shape:?}\n{plan}");
    }
}

#[tokio::test]
async fn a_rare_value_is_found_without_reading_all_that_is_listed() {
    let database = TestDatabase::create().await.unwrap();
    let pool = database.pool().unwrap();
    fill(&pool).await;
    sqlx::raw_sql(
        "UPDATE properties SET currency = 'BTN', max_guests = 50 WHERE id IN (SELECT id FROM properties WHERE status = 'listed' LIMIT 3);
         ANALYZE properties",
    )
    .execute(&pool)
    .await
    .unwrap();
    let mut conn = pool.acquire().await.unwrap();
    let currency = Search {
        currency: "BTN".parse().ok(),
        ..Search::default()
    };
    let guests = Search {
        guests: Some(50),
        ..Search::default()
    };
    for (shape, index) in [(currency, "properties_by_currency"), (guests, "properties_by_guests")] {
        let plan = plan(&mut conn, &shape, 21).await.unwrap().join("\n");
        assert!(plan.contains(index), "{shape:?}\n{plan}");
        assert_eq!(search(&mut conn, &shape, 21).await.unwrap().len(), 3);
    }
}

#[tokio::test]
async fn pages_in_any_order_of_filters_hold_every_match_once() {
    let database = TestDatabase::create().await.unwrap();
    let pool = database.pool().unwrap();
    fill(&pool).await;
    let mut conn = pool.acquire().await.unwrap();
    let wanted = Search {
        city: Some("bErLiN".to_owned()),
        stay: Some(stay()),
        guests: Some(3),
        ..Search::default()
    };
    let expected: Vec<Uuid> = sqlx::query_scalar(
        "SELECT id FROM properties WHERE city = 'Berlin' AND status = 'listed' AND max_guests >= 3
         AND min_nights <= 3 AND max_nights >= 3 AND id NOT IN (
             SELECT property_id FROM bookings WHERE state = 'confirmed' AND stay && daterange('2030-06-01', '2030-06-04'))
         ORDER BY rating_hundredths DESC, id",
    )
    .fetch_all(&mut *conn)
    .await
    .unwrap();
    assert!(expected.len() > 300, "{}", expected.len());
    assert_eq!(walk(&mut conn, wanted).await, expected);
}

async fn walk(conn: &mut PgConnection, mut wanted: Search) -> Vec<Uuid> {
    let mut found = Vec::new();
    loop {
        let page = search(conn, &wanted, 100).await.unwrap();
        found.extend(page.iter().map(|property| property.id));
        let Some(last) = page.last() else { return found };
        wanted.after = Some(Position::of(last));
    }
}

fn stay() -> Stay {
    Stay::new("2030-06-01".parse().unwrap(), "2030-06-04".parse().unwrap())
}

/// Each filter alone and with each other one; each of these with dates, and on a later page.
fn shapes() -> Vec<Search> {
    let filters: [fn(&mut Search); 12] = [
        |_| {},
        |search| search.city = Some("Berlin".to_owned()),
        |search| search.city = Some("Nowhere".to_owned()),
        |search| search.country = Some("PT".to_owned()),
        |search| search.guests = Some(16),
        |search| (search.min_price, search.max_price) = (Some(5_000), Some(5_010)),
        |search| search.max_price = Some(30_000),
        |search| search.currency = "JPY".parse().ok(),
        |search| search.bedrooms = Some(5),
        |search| search.amenities = vec!["piano".to_owned()],
        |search| search.amenities = vec!["wifi".to_owned(), "kitchen".to_owned()],
        |search| search.instant_book = Some(true),
    ];
    let mut shapes = Vec::new();
    for first in &filters {
        for second in &filters {
            let mut shape = Search::default();
            first(&mut shape);
            second(&mut shape);
            let dated = Search {
                stay: Some(stay()),
                ..shape.clone()
            };
            let later = Search {
                after: Some(Position {
                    rating_hundredths: 410,
                    id: Uuid::max(),
                }),
                ..dated.clone()
            };
            shapes.extend([shape, dated, later]);
        }
    }
    for unlisted_too in [false, true] {
        shapes.push(Search {
            host_id: Some(Uuid::from_u128(7)),
            unlisted_too,
            ..Search::default()
        });
    }
    shapes
}

/// Ten cities; three of ten without a review; two stays of three nights each, some of them given up.
async fn fill(pool: &PgPool) {
    sqlx::raw_sql(
        "INSERT INTO users (id, email, password_hash, full_name, role, created_at, updated_at)
             SELECT lpad(to_hex(n), 32, '0')::uuid, n || '@example.com', '', 'A host', 'host', now(), now() FROM generate_series(1, 200) n",
    )
    .execute(pool)
    .await
    .unwrap();
    sqlx::query(
        "INSERT INTO properties (id, host_id, title, description, city, country, latitude, longitude, time_zone, currency,
             nightly_rate_minor, cleaning_fee_minor, max_guests, bedrooms, beds, bathrooms, amenities, house_rules, check_in_from,
             check_out_by, min_nights, max_nights, instant_book, cancellation_policy, status, rating_hundredths, review_count, created_at, updated_at)
         SELECT gen_random_uuid(), lpad(to_hex(1 + n % 200), 32, '0')::uuid, 'Flat ' || n, repeat('Quiet and light. ', 30),
             (ARRAY['Berlin', 'Paris', 'Lisbon', 'Rome', 'Tokyo', 'Madrid', 'Vienna', 'Prague', 'Oslo', 'Athens'])[1 + n % 10],
             (ARRAY['DE', 'FR', 'PT', 'IT', 'JP', 'ES', 'AT', 'CZ', 'NO', 'GR'])[1 + n % 10], 50, 10, 'Europe/Berlin',
             CASE WHEN n % 10 = 4 THEN 'JPY' ELSE 'EUR' END, 3000 + n * 7919 % 40000, 0, 1 + n % 97 % 16, n % 6, 1, 1,
             CASE WHEN n % 1000 = 0 THEN '{wifi,piano}' ELSE '{wifi,kitchen}' END::text[], '', '15:00', '11:00', 1 + n % 3, 30,
             n % 2 = 0, 'moderate', CASE WHEN n % 50 = 0 THEN 'draft' ELSE 'listed' END,
             CASE WHEN n % 10 < 3 THEN 0 ELSE 300 + n % 200 END, 0, now(), now()
         FROM generate_series(1, $1) n",
    )
    .bind(PROPERTIES)
    .execute(pool)
    .await
    .unwrap();
    sqlx::raw_sql(
        "INSERT INTO bookings (id, property_id, guest_id, host_id, state, stay, guests, instant_book, cancellation_policy, time_zone,
             check_in_from, check_out_by, currency, price_lines, total_minor, host_fee_minor, hold_expires_at, created_at, updated_at)
         SELECT gen_random_uuid(), properties.id, host_id, host_id, CASE WHEN visit = 3 THEN 'cancelled_by_guest' ELSE 'confirmed' END,
             daterange(day, day + 3), 1, true, 'moderate', 'Europe/Berlin', '15:00', '11:00', 'EUR', '[]', 1, 0, now(), now(), now()
         FROM properties, generate_series(1, 3) visit,
             LATERAL (SELECT '2030-05-01'::date + visit * 20 + review_count + nightly_rate_minor::int % 15 AS day) start",
    )
    .execute(pool)
    .await
    .unwrap();
    sqlx::raw_sql("VACUUM (ANALYZE) properties, bookings")
        .execute(pool)
        .await
        .unwrap();
}
