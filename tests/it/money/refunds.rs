//! Refunds that are slow, come back, or whose answer is lost: the books say what became of the money.

use roost_shared::jobs::catalogue::VoidPayment;
use roost_shared::payments;
use roost_tests::stripe::{Fault, FaultKind};
use roost_tests::world::{World, id_of};
use serde_json::json;
use uuid::Uuid;

use super::{enqueue, hears_of, is_in, refunds};
use crate::jobs::{Scene, TOTAL, scene};

/// A booking that was paid with this card.
async fn paid(card: &str) -> (Scene, Uuid) {
    let scene = scene(World::start().await, json!({})).await;
    let booking = scene.books(card).await;
    is_in(&scene, booking, "confirmed").await;
    (scene, booking)
}

/// The only refund's id, when Stripe has accepted it.
async fn accepted(world: &World) -> String {
    let mut id = None;
    world
        .eventually("accepted", async || {
            id = sqlx::query_scalar("SELECT stripe_refund_id FROM refunds")
                .fetch_one(world.pool())
                .await
                .unwrap();
            id.is_some()
        })
        .await;
    id.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refund_that_is_pending_is_booked_when_it_is_settled() {
    for succeeds in [true, false] {
        let (scene, booking) = paid("pm_card_pendingRefund").await;
        let world = &scene.world;
        let books = world.ledger().await;
        scene.act(&scene.guest, booking, "cancel").await;
        let id = accepted(world).await;
        assert_eq!(refunds(world).await, [("pending".to_owned(), TOTAL)]);
        assert_eq!(world.ledger().await, books);
        world.stripe.settle_refund(&id, succeeds).unwrap();
        let end = if succeeds { "succeeded" } else { "failed" };
        world
            .eventually(end, async || refunds(world).await == [(end.to_owned(), TOTAL)])
            .await;
        world.run_jobs().await;
        assert_eq!(world.ledger().await, if succeeds { Vec::new() } else { books });
        assert_eq!(hears_of(&scene, "Your refund did not arrive"), !succeeds);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refund_that_comes_back_is_taken_out_of_the_books_and_told() {
    let (scene, booking) = paid("pm_card_pendingRefund").await;
    let world = &scene.world;
    let books = world.ledger().await;
    scene.act(&scene.guest, booking, "cancel").await;
    let id = accepted(world).await;
    world.stripe.settle_refund(&id, true).unwrap();
    world
        .eventually("booked", async || world.ledger().await.is_empty())
        .await;
    world.stripe.settle_refund(&id, false).unwrap();
    world
        .eventually("failed", async || refunds(world).await[0].0 == "failed")
        .await;
    world.run_jobs().await;
    assert_eq!(world.ledger().await, books);
    assert_eq!(world.payment(&scene.guest, booking).await["refunded_minor"], 0);
    assert!(hears_of(&scene, "Your refund did not arrive"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refund_that_fails_right_after_its_success_ends_as_failed() {
    let (scene, booking) = paid("pm_card_refundFail").await;
    let world = &scene.world;
    let books = world.ledger().await;
    scene.act(&scene.guest, booking, "cancel").await;
    world
        .eventually("failed", async || {
            refunds(world).await.first().is_some_and(|(state, _)| state == "failed")
        })
        .await;
    world.run_jobs().await;
    assert_eq!((world.ledger().await, refunds(world).await.len()), (books, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refund_whose_answer_was_lost_is_found_by_its_own_id() {
    for kind in [
        FaultKind::ServerError,
        FaultKind::ServerErrorAfterCommit,
        FaultKind::BadGatewayAfterCommit,
        FaultKind::ResetAfterCommit,
        FaultKind::TruncatedJson,
        FaultKind::Empty,
    ] {
        let (scene, booking) = paid("pm_card_visa").await;
        let world = &scene.world;
        world.stripe.fault(Fault::new(kind).on_operation("/refunds"));
        scene.act(&scene.guest, booking, "cancel").await;
        world
            .eventually("refunded", async || {
                refunds(world).await == [("succeeded".to_owned(), TOTAL)]
            })
            .await;
        assert_eq!(world.at_stripe(booking).await.refunded, TOTAL, "{kind:?}");
        assert_eq!(world.ledger().await, [], "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fees_of_several_refunds_add_up() {
    let (scene, booking) = paid("pm_card_visa").await;
    let world = &scene.world;
    for part in [4, 4, TOTAL - 8] {
        let db = world.db();
        let mut tx = db.begin().await.unwrap();
        payments::pay_back(&mut tx, booking, part, "in parts").await.unwrap();
        tx.commit().await.unwrap();
        world.run_jobs().await;
    }
    assert_eq!(world.at_stripe(booking).await.refunded, TOTAL);
    assert_eq!(world.ledger().await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_promised_back_already_is_not_promised_again() {
    let (mut scene, booking) = paid("pm_card_visa").await;
    scene.world.stop_worker().await;
    scene.act(&scene.guest, booking, "cancel").await;
    let payment_id = id_of(&scene.world.payment(&scene.guest, booking).await);
    enqueue(&scene.world, &VoidPayment { payment_id }).await;
    sqlx::query("UPDATE jobs SET priority = 99 WHERE kind = 'payment.refund'")
        .execute(scene.world.pool())
        .await
        .unwrap();
    scene.world.start_worker();
    scene.world.run_jobs().await;
    assert_eq!(refunds(&scene.world).await, [("succeeded".to_owned(), TOTAL)]);
}
