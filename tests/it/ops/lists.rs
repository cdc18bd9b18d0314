//! The list of jobs: every page by an index.

use roost_shared::jobs::list::{self, JobFilter};
use roost_tests::app::TestApp;

#[tokio::test]
async fn no_list_reads_the_whole_table() {
    let app = TestApp::start().await;
    let pool = app.state.db.pool();
    sqlx::query(
        "INSERT INTO jobs (id, kind, queue, priority, args, state, run_at, attempt, max_attempts, last_error, finished_at, created_at)
         SELECT ('01900000-' || lpad(to_hex(n / 65536), 4, '0') || '-7' || substr(md5(n::text), 1, 3) || '-8' || substr(md5(n::text), 4, 3) || '-' || lpad(to_hex(n), 12, '0'))::uuid,
                (ARRAY['mail.send', 'cache.warm', 'payment.capture', 'booking.confirm'])[1 + n % 4],
                (ARRAY['notifications', 'cache', 'payments', 'confirmation'])[1 + n % 4], 50,
                jsonb_build_object('payment_id', gen_random_uuid()),
                CASE WHEN n % 1000 = 0 THEN 'dead' ELSE 'succeeded' END, now(), CASE WHEN n % 50 = 0 THEN 4 ELSE 1 END, 15,
                CASE WHEN n % 1000 = 0 THEN 'Stripe said no to ' || n END, now(), now()
         FROM generate_series(1, 40000) AS n",
    )
    .execute(pool)
    .await
    .unwrap();
    sqlx::query("ANALYZE jobs").execute(pool).await.unwrap();
    let some = |change: fn(&mut JobFilter)| {
        let mut filter = JobFilter::default();
        change(&mut filter);
        filter
    };
    let shapes = [
        some(|_| ()),
        some(|filter| filter.states = vec!["dead".to_owned()]),
        some(|filter| filter.states = vec!["dead".to_owned(), "running".to_owned()]),
        some(|filter| filter.kind = Some("mail.send".to_owned())),
        some(|filter| filter.queue = Some("payments".to_owned())),
        some(|filter| filter.attempts = Some(3)),
        some(|filter| filter.from = Some("2024-06-10T00:00:00Z".parse().unwrap())),
        some(|filter| filter.q = Some("no to 7000".to_owned())),
        some(|filter| filter.q = Some("01a2037c-a236-775c-8d03-3d14bc67841b".to_owned())),
        some(|filter| filter.q = Some(r#"{"payment_id": "01a2037c-a236-775c-8d03-3d14bc67841b"}"#.to_owned())),
        some(|filter| {
            filter.kind = Some("payment.capture".to_owned());
            filter.states = vec!["dead".to_owned()];
            filter.q = Some("Stripe".to_owned());
        }),
    ];
    for filter in shapes {
        let plan = list::plan(pool, &filter, 51).await.unwrap().join("\n");
        assert!(plan.contains("Index"), "{filter:?}\n{plan}");
        assert!(!plan.contains("Seq Scan on jobs"), "{filter:?}\n{plan}");
        let walks =
            filter.q.is_none() && (filter.kind.is_some() || filter.queue.is_some() || !filter.states.is_empty());
        assert!(!walks || plan.contains("jobs_by_kind"), "{filter:?}\n{plan}");
    }
    // Pages hold every match once.
    let filter = some(|filter| filter.states = vec!["dead".to_owned()]);
    let (mut seen, mut before) = (Vec::new(), None);
    loop {
        let page = list::list(pool, &filter, before, 7).await.unwrap();
        before = page.last().map(|job| job.id);
        seen.extend(page.iter().map(|job| job.id));
        if page.len() < 7 {
            break;
        }
    }
    assert_eq!(seen.len(), 40);
    assert!(seen.is_sorted_by(|left, right| left > right));
    assert_eq!(list::count(pool, &filter).await.unwrap(), 40);
}
