//! What is taken out of a list to be worked off, and goes back into it should that fail or be cut short.

use std::sync::Mutex;

use super::lock;

/// All that was in the list. Back in it when this is dropped, unless it is done.
pub(super) struct Taken<'a, T> {
    list: &'a Mutex<Vec<T>>,
    pub items: Vec<T>,
}

impl<'a, T> Taken<'a, T> {
    pub fn all(list: &'a Mutex<Vec<T>>) -> Self {
        let items = std::mem::take(&mut *lock(list));
        Self { list, items }
    }

    pub fn done(mut self) {
        self.items.clear();
    }
}

impl<T> Drop for Taken<'_, T> {
    fn drop(&mut self) {
        if !self.items.is_empty() {
            lock(self.list).append(&mut self.items);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn what_a_task_took_is_back_when_it_is_stopped_in_the_middle() {
        let list = Arc::new(Mutex::new(vec![1, 2]));
        let (began, begun) = tokio::sync::oneshot::channel();
        let task = tokio::spawn({
            let list = Arc::clone(&list);
            async move {
                let taken = Taken::all(&list);
                began.send(()).unwrap();
                std::future::pending::<()>().await;
                taken.done();
            }
        });
        begun.await.unwrap();
        assert!(lock(&list).is_empty());
        lock(&list).push(3);
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
        assert_eq!(*lock(&list), [3, 1, 2]);
        Taken::all(&list).done();
        assert!(lock(&list).is_empty());
    }
}
