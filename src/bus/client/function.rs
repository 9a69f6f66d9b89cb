//! Functions that a process offers to be run in it, by name.

use std::{
    any::Any,
    fmt::Display,
    future::{Future, poll_fn},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::Duration,
};

use futures_util::FutureExt;
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::Semaphore;

use super::{
    super::{control::Ask, error::BusError, frame::Space, id::ProcessId, payload::Payload, to::To},
    Bus,
    inbox::Inbox,
    message::Message,
    request::{Question, Unanswered},
    shared::{Shared, check_name},
    subscription::{Overflow, QUEUE, poll_messages},
};

/// Calls of one function that run at the same time; more wait.
const AT_ONCE: usize = 256;

/// A function that this process offers, until this is dropped. Calls that run by then go on to their
/// end; those that wait are answered that nobody offers it.
#[derive(Debug)]
pub struct Offered {
    bus: Bus,
    name: String,
    inbox: Arc<Inbox<Message>>,
}

impl Bus {
    /// Offers a function that other processes may have [run](Self::run_in_node) in this one; when this
    /// returns, the hub knows.
    ///
    /// Each call is a task of its own on the runtime that this is called in, at most 256 at once; up to
    /// 1,024 more wait, and if even more come the oldest of those fail
    /// ([`Failure::Overflow`](super::super::Failure::Overflow)). A call whose caller has given up while
    /// it waited is not begun; one that has begun goes on. If the function returns an error or panics, or
    /// the arguments are not what it takes, the caller gets
    /// [`Failure::Refused`](super::super::Failure::Refused) with the text, and this process goes on.
    ///
    /// Only names, arguments and results travel, never code. Whoever could send code would own every
    /// process that can be reached, and with it what that process may do; what a closure has captured
    /// means something else elsewhere; and two ends that were built apart would not agree on what the
    /// code means. So what may be run is what was registered here, and a name that was not is refused.
    ///
    /// # Errors
    /// [`BusError::Invalid`]: the name is none, or this process offers it already.
    /// [`BusError::Failed`]: the hub refuses more. [`BusError::Closed`].
    ///
    /// # Panics
    /// Outside a tokio runtime.
    ///
    /// ```no_run
    /// # async fn example(bus: pointsman::bus::Bus) -> Result<(), pointsman::bus::BusError> {
    /// let root = bus
    ///     .offer("root", |x: f64| async move {
    ///         if x < 0.0 { Err("negative") } else { Ok(x.sqrt()) }
    ///     })
    ///     .await?;
    /// # drop(root);
    /// # Ok(()) }
    /// ```
    pub async fn offer<A, R, E, F>(
        &self,
        name: &str,
        function: impl Fn(A) -> F + Send + Sync + 'static,
    ) -> Result<Offered, BusError>
    where
        A: DeserializeOwned + Send + 'static,
        R: Serialize + Send + 'static,
        E: Display + Send + 'static,
        F: Future<Output = Result<R, E>> + Send + 'static,
    {
        check_name(name)?;
        let (offered, known) = {
            let shared = self.shared();
            let mut incoming = shared.incoming();
            if incoming.functions.contains_key(name) {
                return Err(BusError::Invalid(format!(
                    "this process offers {name} already"
                )));
            }
            let known = incoming.ask(shared, Ask::Offer(name.into()))?;
            let inbox = Arc::new(Inbox::new(QUEUE, Overflow::LoseOldest));
            incoming.functions.insert(name.into(), Arc::clone(&inbox));
            drop(incoming);
            let offered = Offered {
                bus: self.clone(),
                name: name.into(),
                inbox,
            };
            (offered, known)
        };
        let calls = Arc::clone(&offered.inbox);
        tokio::spawn(serve(Arc::clone(self.shared()), calls, Arc::new(function)));
        known.await.unwrap_or(Err(BusError::Closed))?;
        Ok(offered)
    }

    /// Has a function run in this process, and waits for its result, `deadline` at the most. A structure
    /// or a tuple makes several arguments of one.
    ///
    /// # Errors
    /// [`BusError::Failed`]: the process is not there or does not offer the function, or the function
    /// failed, with its text, or was not done in time, and then may still be running.
    /// [`BusError::Payload`]: the arguments cannot be written, or the result is no `R`. Others as
    /// [`request`](Self::request).
    ///
    /// # Panics
    /// As [`request`](Self::request).
    ///
    /// ```no_run
    /// # async fn example(bus: pointsman::bus::Bus) -> Result<(), pointsman::bus::BusError> {
    /// # use std::time::Duration;
    /// for peer in bus.peers().await?.iter().filter(|peer| peer.functions.iter().any(|f| f == "root")) {
    ///     let root: f64 = bus.run_in_node(peer.id, "root", &2.0, Duration::from_secs(1)).await?;
    ///     println!("{}: {root}", peer.id);
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn run_in_node<A, R>(
        &self,
        process: ProcessId,
        function: &str,
        arguments: &A,
        deadline: Duration,
    ) -> Result<R, BusError>
    where
        A: Serialize + ?Sized,
        R: DeserializeOwned,
    {
        check_name(function)?;
        let question = Question {
            space: Space::Function,
            to: To::from(process),
            name: function,
            payload: Payload::compact(arguments)?,
            attached: None,
            deadline,
        };
        let answer = self.put(question).await.map_err(Unanswered::into_error)?;
        answer.decode()
    }
}

impl Offered {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Offered {
    fn drop(&mut self) {
        let shared = self.bus.shared();
        let mut incoming = shared.incoming();
        incoming.functions.remove(&self.name);
        // Without a bus nobody knows of it anyway.
        let _ = shared.ask(&Ask::Withdraw(std::mem::take(&mut self.name)), 0);
        drop(incoming);
        // The task ends once those that run have begun.
        let waker = self.inbox.close();
        drop(self.inbox.discard());
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Runs calls as they come, until nothing more does.
async fn serve<A, R, E, F>(
    shared: Arc<Shared>,
    calls: Arc<Inbox<Message>>,
    function: Arc<impl Fn(A) -> F + Send + Sync + 'static>,
) where
    A: DeserializeOwned + Send + 'static,
    R: Serialize + Send + 'static,
    E: Display + Send + 'static,
    F: Future<Output = Result<R, E>> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        // Only then is the next taken out, so that too many are noticed where they wait.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let next = poll_fn(|cx| poll_messages(&calls, &shared.tally, cx)).await;
        let Some(Ok(call)) = next else {
            return;
        };
        let function = Arc::clone(&function);
        tokio::spawn(async move {
            run(&call, &*function).await;
            drop(place);
        });
    }
}

/// Runs the function once, and answers whatever comes of it.
async fn run<A, R, E, F>(call: &Message, function: &(impl Fn(A) -> F + Sync))
where
    A: DeserializeOwned,
    R: Serialize,
    E: Display,
    F: Future<Output = Result<R, E>>,
{
    let arguments = match call.decode() {
        Ok(arguments) => arguments,
        Err(error) => return refuse(call, &format!("the arguments: {error}")),
    };
    // What it has touched when it panics is its own; nothing of ours is in between.
    let result = AssertUnwindSafe(async { function(arguments).await })
        .catch_unwind()
        .await;
    let text = match result {
        Ok(Ok(result)) => match Payload::compact(&result).and_then(|result| call.reply(result)) {
            Ok(()) => return,
            Err(error) => format!("the result: {error}"),
        },
        Ok(Err(error)) => error.to_string(),
        Err(panic) => format!("the function panicked: {}", said(&*panic)),
    };
    refuse(call, &text);
}

fn refuse(call: &Message, text: &str) {
    // Without a bus, or with too much waiting, the caller is told by others, or by its deadline.
    let _ = call.refuse(text);
}

/// What somebody said who panicked.
fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("it did not say why")
}
