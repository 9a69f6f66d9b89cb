//! Attending to those who come to one of the master's own sockets, so many at a time.

use std::{io, sync::Arc, time::Duration};

use tokio::{sync::Semaphore, task::spawn_local, time::sleep};

/// Accepts for ever, and attends to each in a task of its own, to as many at once as there are `places`.
/// Who finds none waits in the backlog, and holds no descriptor of the master's. Ends when the places are
/// closed.
pub(super) async fn attend_each<S, F: Future<Output = ()> + 'static>(
    places: Arc<Semaphore>,
    accept: impl AsyncFn() -> io::Result<S>,
    attend: impl Fn(S) -> F,
) {
    while let Ok(place) = places.clone().acquire_owned().await {
        let Ok(stream) = accept().await else {
            // Out of descriptors, most likely. Rest rather than spin; the metrics say why.
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        let attended = attend(stream);
        spawn_local(async move {
            let _place = place;
            attended.await;
        });
    }
}
