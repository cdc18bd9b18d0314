//! What follows publication: answers, reports, hiding, and sums that stay exact.

use futures::future::join_all;
use roost_tests::world::id_of;
use serde_json::json;

use super::{Scene, sums_are_exact};

#[tokio::test(flavor = "multi_thread")]
async fn a_host_answers_once_and_everybody_reads_it() {
    let scene = Scene::set().await;
    let world = &scene.world;
    let booking = scene.ended_stay(&scene.guest).await;
    let [review, of_guest] = scene.both_write(&scene.guest, booking, [4, 5]).await;
    let path = format!("/reviews/{review}/answer");
    let body = json!({"text": " <script>alert('thanks')</script> "});
    for other in [&scene.guest, &world.host().await] {
        world
            .post(&path, body.clone())
            .by(other)
            .send()
            .await
            .refused(403, "forbidden");
    }
    let on_guest = format!("/reviews/{of_guest}/answer");
    for anybody in [&scene.host, &scene.guest] {
        world
            .post(&on_guest, body.clone())
            .by(anybody)
            .send()
            .await
            .refused(403, "forbidden");
    }
    let answers = join_all((0..4).map(|_| world.post(&path, body.clone()).by(&scene.host).send())).await;
    let mut statuses: Vec<u16> = answers.iter().map(|reply| reply.status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 409, 409, 409]);
    world
        .post(&path, body)
        .by(&scene.host)
        .send()
        .await
        .refused(409, "already_answered");
    let told = world.get("/notifications/").by(&scene.guest).send().await.expect(200);
    let events: Vec<&str> = told["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["event"].as_str().unwrap())
        .collect();
    assert_eq!(
        events,
        [
            "review_answered",
            "reviews_published",
            "review_invited",
            "booking_confirmed"
        ]
    );
    let shown = world.get(&format!("/reviews/{review}")).send().await;
    assert_eq!(shown.json()["answer"]["text"], "<script>alert('thanks')</script>");
    assert_eq!(shown.header("content-type"), "application/json; charset=utf-8");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reported_review_is_hidden_and_its_stars_count_no_longer() {
    let scene = Scene::set().await;
    let world = &scene.world;
    let [bad, _] = scene
        .both_write(&scene.guest, scene.ended_stay(&scene.guest).await, [1, 5])
        .await;
    let second = world.guest().await;
    let booking = scene.ended_stay(&second).await;
    let [good, _] = scene.both_write(&second, booking, [5, 4]).await;
    assert_eq!(
        scene.summary(&format!("host_id={}", scene.host.id)).await["rating"],
        3.0
    );
    let shown = world.get(&format!("/properties/{}", scene.flat)).send().await.json();

    let report = format!("/reviews/{bad}/report");
    let body = json!({"reason": "personal_information", "details": "The code of the door."});
    world
        .post(&report, body.clone())
        .send()
        .await
        .refused(401, "unauthorized");
    world
        .post(&report, body.clone())
        .by(&scene.guest)
        .send()
        .await
        .refused(409, "own_review");
    assert_eq!(
        world.post(&report, body.clone()).by(&scene.host).send().await.status,
        204
    );
    world
        .post(&report, body)
        .by(&scene.host)
        .send()
        .await
        .refused(409, "already_reported");

    let hide = format!("/reviews/{bad}/hide");
    let reason = json!({"reason": "It tells the code of the door."});
    for nobody in [&scene.host, &scene.guest, &second] {
        world
            .post(&hide, reason.clone())
            .by(nobody)
            .send()
            .await
            .refused(403, "forbidden");
    }
    let moderator = scene.moderator().await;
    let hiding = join_all((0..4).map(|_| world.post(&hide, reason.clone()).by(&moderator).send())).await;
    for reply in hiding {
        assert_eq!(reply.expect(200)["state"], "hidden");
    }
    world.run_jobs().await;
    sums_are_exact(world.pool()).await;
    let summary = scene.summary(&format!("property_id={}", scene.flat)).await;
    assert_eq!(
        summary["histogram"],
        json!({"one": 0, "two": 0, "three": 0, "four": 0, "five": 1})
    );
    let after = world.get(&format!("/properties/{}", scene.flat)).send().await.json();
    assert_eq!((&after["rating"], &after["review_count"]), (&json!(5.0), &json!(1)));
    assert_eq!(
        after["version"].as_i64().unwrap(),
        shown["version"].as_i64().unwrap() + 1,
        "hidden once"
    );
    for reader in [&scene.host, &second] {
        scene.read(reader, bad).await.refused(404, "not_found");
        let listed = scene.list(reader, &format!("property_id={}", scene.flat)).await;
        assert_eq!(
            listed
                .iter()
                .map(id_of)
                .filter(|id| [bad, good].contains(id))
                .collect::<Vec<_>>(),
            [good]
        );
    }
    let own = scene.read(&scene.guest, bad).await.expect(200);
    assert_eq!(own["hidden_reason"], "It tells the code of the door.");
    world
        .post(&format!("/reviews/{bad}/answer"), json!({"text": "Hm."}))
        .by(&scene.host)
        .send()
        .await
        .refused(404, "not_found");
    // A right that is taken away is gone at once.
    roost_shared::users::set_moderator(world.pool(), &moderator.email, false)
        .await
        .unwrap();
    let hide = format!("/reviews/{good}/hide");
    world
        .post(&hide, reason)
        .by(&moderator)
        .send()
        .await
        .refused(403, "forbidden");
    assert!(
        !roost_shared::users::set_moderator(world.pool(), "nobody@example.com", true)
            .await
            .unwrap()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn many_publish_at_the_same_time_and_no_star_is_lost() {
    let scene = Scene::set().await;
    let world = &scene.world;
    let another = world.lists(&scene.host, json!({"title": "Garden house"})).await;
    let mut stays = Vec::new();
    for number in 0..6 {
        let guest = world.guest().await;
        let flat = if number % 2 == 0 { scene.flat } else { another };
        let booking = scene.ended_stay_at(&guest, flat).await;
        stays.push((guest, booking, 1 + number % 5));
    }
    let both = stays.iter().flat_map(|(guest, booking, stars)| {
        [
            scene.writes(guest, *booking, *stars),
            scene.writes(&scene.host, *booking, 6 - *stars),
        ]
    });
    for reply in join_all(both).await {
        reply.expect(201);
    }
    // Each side of each stay tries to write once more, at once.
    let again = stays.iter().flat_map(|(guest, booking, stars)| {
        [
            scene.writes(guest, *booking, *stars),
            scene.writes(&scene.host, *booking, *stars),
        ]
    });
    for reply in join_all(again).await {
        reply.refused(409, "already_reviewed");
    }
    // And the jobs come twice.
    for (_, booking, _) in &stays {
        let mut tx = world.db().begin().await.unwrap();
        tx.enqueue(&roost_shared::jobs::catalogue::PublishReviews { booking_id: *booking });
        tx.commit().await.unwrap();
    }
    world.run_jobs().await;
    sums_are_exact(world.pool()).await;
    let summary = scene.summary(&format!("host_id={}", scene.host.id)).await;
    assert_eq!(summary["review_count"], 6);
    assert_eq!(
        summary["histogram"],
        json!({"one": 2, "two": 1, "three": 1, "four": 1, "five": 1})
    );
}
