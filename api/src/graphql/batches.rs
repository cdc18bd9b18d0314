//! When what loaders gathered is read: once no field of the operation can go on without it.
//!
//! Loaders wait a moment by themselves for more to be asked. How much is asked in that moment depends on the machine,
//! and a slow one would cut a page into several statements. Here the operation and its reads take turns in one task,
//! so a batch begins when every field has said what it needs, is delivered as a whole, and never is cut in two.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, FuturesUnordered, Stream, StreamExt};
use futures::task::AtomicWaker;

/// What the fields of one operation want read.
#[derive(Clone, Default)]
pub struct Wanted(Arc<Mutex<Vec<BoxFuture<'static, ()>>>>);

impl Wanted {
    /// One more batch.
    pub fn add(&self, batch: BoxFuture<'static, ()>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(batch);
    }

    fn take(&self) -> Vec<BoxFuture<'static, ()>> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The answers of the operation, with its batches read in between.
    pub fn between<'a, T: 'a>(self, answers: BoxStream<'a, T>) -> impl Stream<Item = T> + Unpin + 'a {
        let mut turns = Turns {
            answers,
            wanted: self,
            running: FuturesUnordered::new(),
            bell: Arc::default(),
        };
        stream::poll_fn(move |cx| turns.poll(cx))
    }
}

struct Turns<'a, T> {
    answers: BoxStream<'a, T>,
    wanted: Wanted,
    running: FuturesUnordered<BoxFuture<'static, ()>>,
    bell: Arc<Bell>,
}

/// Wakes the task, and knows that it did.
#[derive(Default)]
struct Bell {
    rang: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.rang.store(true, Ordering::Release);
        self.task.wake();
    }
}

impl<T> Turns<'_, T> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        loop {
            self.bell.task.register(cx.waker());
            self.bell.rang.store(false, Ordering::Release);
            let waker = Waker::from(Arc::clone(&self.bell));
            let answer = Pin::new(&mut self.answers).poll_next(&mut Context::from_waker(&waker));
            // Out of breath, not stuck: there are fields that have not said yet what they need.
            let goes_on = self.bell.rang.load(Ordering::Acquire);
            if answer.is_ready() || goes_on {
                return answer;
            }
            self.running.extend(self.wanted.take());
            let mut delivered = false;
            while let Poll::Ready(Some(())) = self.running.poll_next_unpin(cx) {
                delivered = true;
            }
            if !delivered {
                return Poll::Pending;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::convert::Infallible;
    use std::time::Duration;

    use async_graphql::dataloader::{DataLoader, HashMapCache, Loader};
    use futures::FutureExt;

    use super::*;

    /// Lets others go first, as a long list of fields does.
    async fn breathe() {
        let mut asked = false;
        std::future::poll_fn(|cx| {
            if std::mem::replace(&mut asked, true) {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    /// Answers with the key, and notes how many were asked at a time.
    struct Echo(Arc<Mutex<Vec<usize>>>);

    impl Loader<u32> for Echo {
        type Value = u32;
        type Error = Infallible;

        async fn load(&self, keys: &[u32]) -> Result<HashMap<u32, u32>, Infallible> {
            self.0.lock().unwrap().push(keys.len());
            Ok(keys.iter().map(|key| (*key, *key)).collect())
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_slow_machine_reads_no_more_often() {
        let (asked, wanted) = (Arc::new(Mutex::new(Vec::new())), Wanted::default());
        let batches = wanted.clone();
        let loader = DataLoader::with_cache(
            Echo(Arc::clone(&asked)),
            move |batch| batches.add(batch),
            HashMapCache::default(),
        );
        let field = async |number: u32| {
            // Longer in all than the loader waits by itself.
            std::thread::sleep(Duration::from_micros(200));
            let first = loader.load_one(number).await.unwrap().unwrap();
            breathe().await;
            loader.load_one(first + 100).await.unwrap().unwrap()
        };
        let fields = futures::future::join_all((0..50).map(field)).into_stream().boxed();
        let answered = wanted.between(fields).next().await.unwrap();
        assert_eq!(answered, (100..150).collect::<Vec<u32>>());
        assert_eq!(*asked.lock().unwrap(), [50, 50]);
    }
}
