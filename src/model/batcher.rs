use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::embedder::shared;
use super::{Embedder, ModelError};
use crate::domain::Embedding;

/// How requests are gathered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchOptions {
    /// Requests computed together, at most.
    pub max_batch: usize,
    /// How long the first request of a batch waits for others, unless the last ones waited for nobody.
    pub max_wait: Duration,
    /// Requests that may wait; one more is refused.
    pub queue: usize,
}

impl Default for BatchOptions {
    fn default() -> Self {
        Self { max_batch: 16, max_wait: Duration::from_micros(500), queue: 256 }
    }
}

/// The way back to a caller, and its place in the queue's depth.
struct Reply {
    sender: oneshot::Sender<Result<Embedding, ModelError>>,
    place: Place,
}

impl Reply {
    fn send(self, answer: Result<Embedding, ModelError>) {
        // Given up first: who has an answer no longer waits.
        drop(self.place);
        // The caller may have left in the meantime.
        let _ = self.sender.send(answer);
    }
}

/// One of those that wait; counted for as long as it lives.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(depth: &Arc<AtomicUsize>) -> Self {
        depth.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(depth))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

type Answers = Result<Vec<Result<Embedding, ModelError>>, ModelError>;

enum Input {
    Image(Vec<f32>),
    Text(String),
}

struct Request {
    input: Input,
    reply: Reply,
}

/// The one thread that computes, and the bounded queue before it. Clones share them; the thread
/// ends with the last clone.
#[derive(Clone)]
pub struct Batcher {
    embedder: Arc<Embedder>,
    queue: Arc<Queue>,
}

impl Batcher {
    /// Starts the thread.
    ///
    /// # Errors
    /// [`ModelError::Stopped`] when the system gives no thread.
    pub fn spawn(embedder: Arc<Embedder>, options: BatchOptions) -> Result<Self, ModelError> {
        let model = Arc::clone(&embedder);
        let compute = move |inputs: Inputs<'_>| match inputs {
            Inputs::Images(pixels) => model.embed_pixels(pixels),
            Inputs::Texts(prompts) => model.embed_texts(prompts),
        };
        Ok(Self { embedder, queue: Arc::new(Queue::spawn(compute, options)?) })
    }

    /// Embeds one preprocessed image, `[3, height, width]`.
    ///
    /// # Errors
    /// [`ModelError::Busy`] when the queue is full, and what [`Embedder::embed_pixels`] says.
    pub async fn image(&self, pixels: Vec<f32>) -> Result<Embedding, ModelError> {
        self.queue.ask(Input::Image(pixels)).await
    }

    /// Embeds one prompt.
    ///
    /// # Errors
    /// [`ModelError::Busy`] when the queue is full, and what [`Embedder::embed_texts`] says.
    pub async fn text(&self, prompt: String) -> Result<Embedding, ModelError> {
        self.queue.ask(Input::Text(prompt)).await
    }

    /// The model.
    #[must_use]
    pub fn embedder(&self) -> &Embedder {
        &self.embedder
    }

    /// Requests that wait or are being computed.
    #[must_use]
    pub fn queue_depth(&self) -> usize {
        self.queue.depth.load(Ordering::Relaxed)
    }
}

/// Inputs of one kind.
enum Inputs<'a> {
    Images(&'a [Vec<f32>]),
    Texts(&'a [String]),
}

struct Queue {
    /// Taken by the end, which is how the thread learns of it.
    sender: Option<SyncSender<Request>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    depth: Arc<AtomicUsize>,
    capacity: usize,
}

impl Queue {
    fn spawn(
        compute: impl Fn(Inputs<'_>) -> Answers + Send + 'static,
        options: BatchOptions,
    ) -> Result<Self, ModelError> {
        let capacity = options.queue.max(1);
        let (sender, receiver) = sync_channel(capacity);
        let depth = Arc::new(AtomicUsize::new(0));
        let worker = Worker { receiver, options, compute, alone: 0 };
        let thread = std::thread::Builder::new()
            .name("model".to_owned())
            .spawn(move || worker.run())
            .map_err(|_| ModelError::Stopped)?;
        Ok(Self { sender: Some(sender), thread: Mutex::new(Some(thread)), depth, capacity })
    }

    async fn ask(&self, input: Input) -> Result<Embedding, ModelError> {
        let (reply, answer) = oneshot::channel();
        let reply = Reply { sender: reply, place: Place::take(&self.depth) };
        let sender = self.sender.as_ref().ok_or(ModelError::Stopped)?;
        sender.try_send(Request { input, reply }).map_err(|refused| match refused {
            TrySendError::Full(_) => ModelError::Busy { queue: self.capacity },
            TrySendError::Disconnected(_) => ModelError::Stopped,
        })?;
        answer.await.unwrap_or(Err(ModelError::Stopped))
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.sender = None;
        let thread = self.thread.get_mut().ok().and_then(Option::take);
        if let Some(thread) = thread {
            // Its panics are caught; there is nothing to learn from the result.
            let _ = thread.join();
        }
    }
}

/// Requests that nobody joined, one after the other, from which on the next one does not wait either.
const ALONE: usize = 8;

struct Worker<F> {
    receiver: Receiver<Request>,
    options: BatchOptions,
    compute: F,
    /// Requests that nobody joined since the last batch of several.
    alone: usize,
}

impl<F: Fn(Inputs<'_>) -> Answers> Worker<F> {
    fn run(mut self) {
        while let Ok(first) = self.receiver.recv() {
            let batch = self.gather(first);
            self.answer(batch);
        }
    }

    /// Waits a moment for company, where there was some lately: a caller who has the service to themselves would wait for nobody each time.
    fn gather(&mut self, first: Request) -> Vec<Request> {
        let wait = if self.alone < ALONE { self.options.max_wait } else { Duration::ZERO };
        let deadline = Instant::now() + wait;
        let mut batch = vec![first];
        while batch.len() < self.options.max_batch {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.receiver.recv_timeout(left) {
                Ok(request) => batch.push(request),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            }
        }
        self.alone = if batch.len() == 1 { self.alone + 1 } else { 0 };
        batch
    }

    fn answer(&self, batch: Vec<Request>) {
        let (mut pixels, mut image_replies) = (Vec::new(), Vec::new());
        let (mut prompts, mut text_replies) = (Vec::new(), Vec::new());
        // Whoever has left gets nothing computed.
        for Request { input, reply } in batch.into_iter().filter(|r| !r.reply.sender.is_closed()) {
            match input {
                Input::Image(image) => {
                    pixels.push(image);
                    image_replies.push(reply);
                }
                Input::Text(prompt) => {
                    prompts.push(prompt);
                    text_replies.push(reply);
                }
            }
        }
        self.compute(Inputs::Images(&pixels), image_replies);
        self.compute(Inputs::Texts(&prompts), text_replies);
    }

    fn compute(&self, inputs: Inputs<'_>, replies: Vec<Reply>) {
        if replies.is_empty() {
            return;
        }
        let answers = catch_unwind(AssertUnwindSafe(|| (self.compute)(inputs)))
            .unwrap_or_else(|panic| Err(ModelError::Panicked(message(&*panic))));
        match answers {
            Ok(answers) => {
                for (reply, answer) in replies.into_iter().zip(answers) {
                    reply.send(answer);
                }
            }
            Err(error) => {
                let error = shared(error);
                for reply in replies {
                    reply.send(Err(error()));
                }
            }
        }
    }
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::future::{join_all, poll_immediate};
    use std::sync::Barrier;
    use tokio::runtime::{Builder, Runtime};

    fn runtime() -> Runtime {
        Builder::new_current_thread().enable_all().build().unwrap()
    }

    fn options(max_batch: usize, queue: usize) -> BatchOptions {
        BatchOptions { max_batch, max_wait: Duration::from_secs(5), queue }
    }

    /// Embeds an image as its own values and a prompt as its length and 1.
    fn echo(inputs: &Inputs<'_>) -> Answers {
        let unit = |values: Vec<f32>| Embedding::from_raw(values).map_err(ModelError::from);
        Ok(match inputs {
            Inputs::Images(pixels) => pixels.iter().cloned().map(unit).collect(),
            Inputs::Texts(prompts) => {
                prompts.iter().map(|p| unit(vec![p.len() as f32, 1.0])).collect()
            }
        })
    }

    /// It would wait for an hour if it did.
    #[test]
    fn who_was_alone_for_a_while_does_not_wait_and_company_is_taken_along() {
        let (sender, receiver) = sync_channel(4);
        let options = BatchOptions { max_batch: 4, max_wait: Duration::from_secs(3_600), queue: 4 };
        let compute = |inputs: Inputs<'_>| echo(&inputs);
        let mut worker = Worker { receiver, options, compute, alone: ALONE };
        let waiting = Arc::new(AtomicUsize::new(0));
        let request = || {
            let place = Place::take(&waiting);
            Request {
                input: Input::Image(vec![1.0]),
                reply: Reply { sender: oneshot::channel().0, place },
            }
        };
        assert_eq!((worker.gather(request()).len(), worker.alone), (1, ALONE + 1));
        sender.send(request()).unwrap();
        assert_eq!((worker.gather(request()).len(), worker.alone), (2, 0));
        // With company lately it waits, until there is no one left who could come.
        drop(sender);
        assert_eq!((worker.gather(request()).len(), worker.alone), (1, 1));
    }

    #[test]
    fn requests_are_computed_together_by_kind_and_each_gets_its_own_answer() {
        let sizes = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&sizes);
        let compute = move |inputs: Inputs<'_>| {
            seen.lock().unwrap().push(match inputs {
                Inputs::Images(pixels) => ("images", pixels.len()),
                Inputs::Texts(prompts) => ("texts", prompts.len()),
            });
            echo(&inputs)
        };
        let queue = Queue::spawn(compute, options(5, 8)).unwrap();
        let inputs = [
            Input::Image(vec![3.0, 4.0]),
            Input::Text("ab".to_owned()),
            Input::Image(vec![0.0, 0.0]),
            Input::Image(vec![0.0, 2.0]),
            Input::Text(String::new()),
        ];
        let answers = runtime().block_on(join_all(inputs.map(|input| queue.ask(input))));
        let first = answers[0].as_ref().unwrap().as_slice();
        assert_eq!(first, [0.6, 0.8]);
        assert!(matches!(answers[2], Err(ModelError::Feature(_))));
        assert_eq!(answers[3].as_ref().unwrap().as_slice(), [0.0, 1.0]);
        assert_eq!(answers[4].as_ref().unwrap().as_slice(), [0.0, 1.0]);
        drop(queue);
        assert_eq!(*sizes.lock().unwrap(), [("images", 3), ("texts", 2)]);
    }

    #[test]
    fn a_full_queue_refuses_and_those_who_left_cost_nothing() {
        let entered = Arc::new(Barrier::new(2));
        let leave = Arc::new(Barrier::new(2));
        let computed = Arc::new(AtomicUsize::new(0));
        let compute = {
            let (entered, leave) = (Arc::clone(&entered), Arc::clone(&leave));
            let computed = Arc::clone(&computed);
            move |inputs: Inputs<'_>| {
                if computed.fetch_add(1, Ordering::SeqCst) == 0 {
                    entered.wait();
                    leave.wait();
                }
                echo(&inputs)
            }
        };
        let queue = Queue::spawn(compute, options(1, 2)).unwrap();
        let ask = || queue.ask(Input::Image(vec![1.0]));
        runtime().block_on(async {
            let mut first = Box::pin(ask());
            assert!(poll_immediate(&mut first).await.is_none());
            entered.wait();
            // The thread is inside the model: two more may wait, a third may not.
            let (mut second, mut third) = (Box::pin(ask()), Box::pin(ask()));
            assert!(poll_immediate(&mut second).await.is_none());
            assert!(poll_immediate(&mut third).await.is_none());
            assert!(matches!(ask().await, Err(ModelError::Busy { queue: 2 })));
            assert_eq!(queue.depth.load(Ordering::SeqCst), 3);
            drop(second);
            leave.wait();
            assert!(first.await.is_ok() && third.await.is_ok());
        });
        let depth = Arc::clone(&queue.depth);
        drop(queue);
        assert_eq!((computed.load(Ordering::SeqCst), depth.load(Ordering::SeqCst)), (2, 0));
    }

    #[test]
    fn a_panic_inside_the_model_is_an_error_and_the_next_request_is_served() {
        let calls = AtomicUsize::new(0);
        let compute = move |inputs: Inputs<'_>| {
            assert!(calls.fetch_add(1, Ordering::SeqCst) > 0, "broken weights");
            echo(&inputs)
        };
        let queue = Queue::spawn(compute, options(1, 2)).unwrap();
        runtime().block_on(async {
            let error = queue.ask(Input::Image(vec![1.0])).await.unwrap_err();
            assert!(error.to_string().contains("broken weights"), "{error}");
            assert!(queue.ask(Input::Image(vec![1.0])).await.is_ok());
        });
    }

    #[test]
    fn the_last_clone_ends_the_thread() {
        let alive = Arc::new(());
        let held = Arc::clone(&alive);
        let compute = move |inputs: Inputs<'_>| {
            let _held = &held;
            echo(&inputs)
        };
        let queue = Queue::spawn(compute, options(1, 2)).unwrap();
        assert_eq!(Arc::strong_count(&alive), 2);
        drop(queue);
        assert_eq!(Arc::strong_count(&alive), 1);
    }
}
