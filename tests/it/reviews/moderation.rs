//! Moderators read what was reported, and decide: hide, show again, let stand. Others do not learn that there is a list.

use roost_shared::reviews::{ReportFilter, ReportPosition, ReportReason, plan_of_reports};
use roost_tests::app::{Actor, Reply};
use roost_tests::world::id_of;
use serde_json::{Value, json};
use uuid::Uuid;

use super::lists::{fill, scatter};
use super::{Scene, sums_are_exact};

impl Scene {
    async fn reports(&self, review: Uuid, reader: &Actor, reason: &str) {
        let body = json!({"reason": reason, "details": "<b>Look</b> at this."});
        let path = format!("/reviews/{review}/report");
        let reply = self.world.post(&path, body).by(reader).send().await;
        assert_eq!(reply.status, 204, "{}", reply.text());
    }

    async fn open_reports(&self, moderator: &Actor, query: &str) -> Vec<Value> {
        let path = format!("/reviews/reports?{query}");
        let page = self.world.get(&path).by(moderator).send().await.expect(200);
        page["items"].as_array().unwrap().clone()
    }

    async fn decides(&self, actor: &Actor, review: Uuid, what: &str, reason: &str) -> Reply {
        let path = format!("/reviews/{review}/{what}");
        self.world.post(&path, json!({"reason": reason})).by(actor).send().await
    }

    /// What was decided about a review, in order.
    async fn decisions(&self, review: Uuid) -> Vec<(String, String)> {
        sqlx::query_as("SELECT decision, reason FROM review_decisions WHERE review_id = $1 ORDER BY id")
            .bind(review)
            .fetch_all(self.world.pool())
            .await
            .unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hidden_review_is_shown_again_and_its_stars_count_again() {
    let scene = Scene::set().await;
    let (world, moderator) = (&scene.world, scene.moderator().await);
    let booking = scene.ended_stay(&scene.guest).await;
    let [review, _] = scene.both_write(&scene.guest, booking, [2, 5]).await;
    scene.reports(review, &scene.host, "untrue").await;
    scene
        .decides(&moderator, review, "hide", "Looks invented.")
        .await
        .expect(200);
    let of_flat = format!("property_id={}", scene.flat);
    assert_eq!(scene.summary(&of_flat).await["review_count"], 0);

    // Who may not see it does not learn of it; its author does, and may not decide.
    for nobody in [&scene.host, &world.guest().await] {
        let reply = scene.decides(nobody, review, "unhide", "Please!").await;
        reply.refused(404, "not_found");
        scene.read(nobody, review).await.refused(404, "not_found");
    }
    let by_author = scene.decides(&scene.guest, review, "unhide", "Please!").await;
    by_author.refused(403, "forbidden");
    let path = format!("/reviews/{review}/unhide");
    let anonymous = world.post(&path, json!({"reason": "x"})).send().await;
    anonymous.refused(401, "unauthorized");

    let seen = scene.read(&moderator, review).await.expect(200);
    assert_eq!(
        (&seen["state"], &seen["hidden_reason"]),
        (&json!("hidden"), &json!("Looks invented."))
    );
    let shown = (0..4).map(|_| scene.decides(&moderator, review, "unhide", "The host was mistaken."));
    for reply in futures::future::join_all(shown).await {
        let shown = reply.expect(200);
        assert_eq!(
            (&shown["state"], &shown["hidden_reason"]),
            (&json!("published"), &Value::Null)
        );
    }
    world.run_jobs().await;
    sums_are_exact(world.pool()).await;
    let summary = scene.summary(&of_flat).await;
    assert_eq!((&summary["review_count"], &summary["rating"]), (&json!(1), &json!(2.0)));
    let listed = scene.list(&scene.host, &of_flat).await;
    assert!(listed.iter().any(|item| id_of(item) == review));
    let decided = [("hide", "Looks invented."), ("unhide", "The host was mistaken.")];
    let decided = decided.map(|(decision, reason)| (decision.to_owned(), reason.to_owned()));
    assert_eq!(scene.decisions(review).await, decided, "each once");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_author_learns_what_was_decided_and_why() {
    let scene = Scene::set().await;
    let (world, moderator) = (&scene.world, scene.moderator().await);
    let booking = scene.ended_stay(&scene.guest).await;
    let [of_flat, of_guest] = scene.both_write(&scene.guest, booking, [2, 5]).await;
    let told = async |author: &Actor| {
        let page = world.get("/notifications/?kind=review&unread=true&limit=2").by(author);
        let page = page.send().await.expect(200);
        let items = page["items"].as_array().unwrap().iter();
        items
            .map(|item| item["event"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let mails = |author: &Actor, subject: &str| {
        let mails = world.mailbox.messages().into_iter();
        mails
            .filter(|mail| mail.is_to(&author.email) && mail.subject.starts_with(subject))
            .collect::<Vec<_>>()
    };
    let reason = "<script>alert('x')</script> It tells the code of the door.";
    for _ in 0..2 {
        scene.decides(&moderator, of_flat, "hide", reason).await.expect(200);
    }
    world.run_jobs().await;
    assert_eq!(told(&scene.guest).await, ["review_hidden", "reviews_published"]);
    assert_eq!(told(&scene.host).await, ["reviews_published", "review_invited"]);
    let hidden = mails(&scene.guest, "Your review is hidden: Bright flat by the canal");
    assert_eq!(hidden.len(), 1, "{:?}", world.mails_to(&scene.guest));
    let text = hidden[0].text.clone().unwrap();
    assert!(
        text.contains("The reason: <script>") && text.contains("It tells the code of the door."),
        "{text}"
    );
    assert!(text.contains(super::WORDS), "{text}");
    assert!(
        !hidden[0].html.clone().unwrap().contains("<script"),
        "markup stays text"
    );
    assert!(hidden[0].header("List-Unsubscribe").is_some());

    let shown_again = "The code was changed.";
    scene
        .decides(&moderator, of_flat, "unhide", shown_again)
        .await
        .expect(200);
    world.run_jobs().await;
    assert_eq!(told(&scene.guest).await, ["review_shown", "review_hidden"]);
    let shown = mails(&scene.guest, "Your review is public again: Bright flat by the canal");
    assert_eq!(shown.len(), 1);
    let text = shown[0].text.clone().unwrap();
    assert!(text.contains(&format!("The reason: {shown_again}")), "{text}");
    // Once more, and the mail of it is another one.
    scene
        .decides(&moderator, of_flat, "hide", "It was not.")
        .await
        .expect(200);
    world.run_jobs().await;
    assert_eq!(mails(&scene.guest, "Your review is hidden").len(), 2);
    // That reports come to nothing is not told: nothing happened to the review.
    scene.reports(of_guest, &scene.guest, "untrue").await;
    let dismissed = scene.decides(&moderator, of_guest, "reports/dismiss", "Fine.").await;
    assert_eq!(dismissed.status, 204);
    world.run_jobs().await;
    assert_eq!(told(&scene.host).await, ["reviews_published", "review_invited"]);

    // Who wants no mail about reviews gets none.
    let choice = world.patch("/notifications/preferences", json!({"review": {"email": false}}));
    choice.by(&scene.host).send().await.expect(200);
    scene.decides(&moderator, of_guest, "hide", "Untrue.").await.expect(200);
    world.run_jobs().await;
    assert_eq!(told(&scene.host).await[0], "review_hidden");
    assert!(mails(&scene.host, "Your review").is_empty());
    // What was decided otherwise before the mail was written is not told.
    for paused in [true, false] {
        sqlx::query("UPDATE queues SET paused = $1 WHERE name = 'notifications'")
            .bind(paused)
            .execute(world.pool())
            .await
            .unwrap();
        world.workers_heed().await;
        if paused {
            for (what, reason) in [("unhide", "A mistake."), ("hide", "No mistake.")] {
                scene.decides(&moderator, of_flat, what, reason).await.expect(200);
            }
        }
    }
    world.run_jobs().await;
    assert_eq!(mails(&scene.guest, "Your review is public again").len(), 1);
    assert_eq!(mails(&scene.guest, "Your review is hidden").len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_are_open_until_somebody_decides() {
    let scene = Scene::set().await;
    let (world, moderator) = (&scene.world, scene.moderator().await);
    let booking = scene.ended_stay(&scene.guest).await;
    let [of_flat, of_guest] = scene.both_write(&scene.guest, booking, [1, 5]).await;
    let readers = [&scene.host, &world.guest().await, &world.guest().await];
    for (reader, reason) in readers.into_iter().zip(["offensive", "spam", "spam"]) {
        world.clock.advance(chrono::TimeDelta::seconds(1));
        scene.reports(of_flat, reader, reason).await;
    }
    scene.reports(of_guest, readers[1], "untrue").await;

    for nobody in readers {
        let path = "/reviews/reports";
        world.get(path).by(nobody).send().await.refused(404, "not_found");
    }
    world.get("/reviews/reports").send().await.refused(401, "unauthorized");

    // One by one, the oldest first.
    let mut path = "/reviews/reports?limit=1".to_owned();
    let mut found = Vec::new();
    loop {
        let page = world.get(&path).by(&moderator).send().await.expect(200);
        let items = page["items"].as_array().unwrap();
        assert!(items.len() <= 1);
        found.extend(items.iter().map(|item| {
            let text = |name: &str| item[name].as_str().unwrap().to_owned();
            (id_of(&item["review"]), text("reporter_id"), text("reason"))
        }));
        match page["next"].as_str() {
            Some(next) => path = next.to_owned(),
            None => break,
        }
    }
    let expected = [
        (of_flat, readers[0], "offensive"),
        (of_flat, readers[1], "spam"),
        (of_flat, readers[2], "spam"),
        (of_guest, readers[1], "untrue"),
    ];
    let expected = expected.map(|(review, reader, reason)| (review, reader.id.clone(), reason.to_owned()));
    assert_eq!(found, expected);
    assert_eq!(scene.open_reports(&moderator, "reason=spam").await.len(), 2);
    let one = scene.open_reports(&moderator, &format!("review_id={of_guest}")).await;
    assert_eq!(one.len(), 1);
    assert_eq!(
        (&one[0]["details"], &one[0]["review"]["text"]),
        (&json!("<b>Look</b> at this."), &json!(super::WORDS))
    );

    // Dismissed: the review stays, its reports are settled. Hidden: they are settled as well.
    for nobody in readers {
        let reply = scene.decides(nobody, of_flat, "reports/dismiss", "Fine.").await;
        reply.refused(403, "forbidden");
    }
    let nothing = scene.decides(&moderator, Uuid::nil(), "reports/dismiss", "Fine.").await;
    nothing.refused(404, "not_found");
    for _ in 0..2 {
        let reply = scene
            .decides(&moderator, of_flat, "reports/dismiss", "Harsh, and true.")
            .await;
        assert_eq!(reply.status, 204);
    }
    assert_eq!(
        scene.decisions(of_flat).await,
        [("dismiss".to_owned(), "Harsh, and true.".to_owned())]
    );
    scene.read(readers[1], of_flat).await.expect(200);
    assert_eq!(scene.open_reports(&moderator, "").await.len(), 1);
    scene.decides(&moderator, of_guest, "hide", "Untrue.").await.expect(200);
    assert!(scene.open_reports(&moderator, "").await.is_empty());

    // A right that is taken away is gone at once.
    roost_shared::users::set_moderator(world.pool(), &moderator.email, false)
        .await
        .unwrap();
    let path = "/reviews/reports";
    world.get(path).by(&moderator).send().await.refused(404, "not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_moderator_sends_is_checked() {
    let scene = Scene::set().await;
    let (world, moderator) = (&scene.world, scene.moderator().await);
    for (query, field) in [
        ("reason=boring", "reason"),
        ("review_id=x", "review_id"),
        ("limit=0", "limit"),
        ("limit=101", "limit"),
    ] {
        let reply = world
            .get(&format!("/reviews/reports?{query}"))
            .by(&moderator)
            .send()
            .await;
        reply.refused_field(400, "invalid_parameter", field);
    }
    let reply = world.get("/reviews/reports?cursor=x").by(&moderator).send().await;
    reply.refused_field(400, "invalid_cursor", "cursor");
    let long = "x".repeat(501);
    for action in ["hide", "unhide", "reports/dismiss"] {
        let path = format!("/reviews/{}/{action}", Uuid::nil());
        for (body, status, code, field) in [
            (json!({}), 400, "invalid_body", "reason"),
            (json!({"reason": 5}), 400, "invalid_body", "reason"),
            (json!({"reason": null}), 400, "invalid_body", "reason"),
            (json!({"reason": ""}), 400, "invalid_body", "reason"),
            (json!({"reason": long}), 400, "invalid_body", "reason"),
            (json!({"reason": " \n "}), 422, "validation_failed", "reason"),
            (json!({"reason": "bell \u{7}"}), 422, "validation_failed", "reason"),
            (json!({"reason": "x", "by": "me"}), 400, "invalid_body", "by"),
        ] {
            let reply = world.post(&path, body).by(&moderator).send().await;
            reply.refused_field(status, code, field);
        }
        let nowhere = scene.decides(&moderator, Uuid::nil(), action, "Fine.").await;
        nowhere.refused(404, "not_found");
        let path = format!("/reviews/me/{action}");
        let reply = world.post(&path, json!({"reason": "x"})).by(&moderator).send().await;
        reply.refused_field(400, "invalid_parameter", "review_id");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_of_reports_is_read_by_an_index() {
    let scene = Scene::set().await;
    let pool = scene.world.pool();
    let booking = scene.ended_stay(&scene.guest).await;
    fill(pool, booking, 20_000).await;
    scatter(pool).await;
    sqlx::raw_sql(
        "INSERT INTO review_reports (review_id, reporter_id, reason, created_at)
             SELECT id, subject_id, (ARRAY['spam', 'untrue', 'offensive', 'other'])[1 + overall % 4], published_at FROM reviews;
         ANALYZE review_reports",
    )
    .execute(pool)
    .await
    .unwrap();
    let mut conn = pool.acquire().await.unwrap();
    let after = Some(ReportPosition {
        reported_at: scene.world.clock.now(),
        review_id: Uuid::nil(),
        reporter_id: Uuid::nil(),
    });
    for reason in [None, Some(ReportReason::Spam)] {
        for review_id in [None, Some(Uuid::nil())] {
            for after in [None, after] {
                let filter = ReportFilter {
                    reason,
                    review_id,
                    after,
                };
                let plan = plan_of_reports(&mut conn, &filter, 21).await.unwrap().join("\n");
                assert!(
                    plan.contains("review_reports_") && !plan.contains("Seq Scan on review"),
                    "{filter:?}\n{plan}"
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moderator_does_not_judge_their_own_case() {
    let scene = Scene::set().await;
    let world = &scene.world;
    let booking = scene.ended_stay(&scene.guest).await;
    let [of_flat, of_guest] = scene.both_write(&scene.guest, booking, [1, 2]).await;
    for party in [&scene.guest, &scene.host] {
        assert!(
            roost_shared::users::set_moderator(world.pool(), &party.email, true)
                .await
                .unwrap()
        );
    }
    for party in [&scene.guest, &scene.host] {
        for review in [of_flat, of_guest] {
            for decision in ["hide", "unhide", "reports/dismiss"] {
                let judged = scene.decides(party, review, decision, "It is not true.").await;
                judged.refused(403, "own_case");
            }
            assert!(scene.decisions(review).await.is_empty());
        }
    }
    let somebody_else = scene.moderator().await;
    scene
        .decides(&somebody_else, of_flat, "hide", "It is not true.")
        .await
        .expect(200);
}
