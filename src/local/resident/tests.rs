//! Loading on demand, over scripted loads under paused time: no llama.cpp.

use std::sync::atomic::AtomicUsize;

use futures::future::{FutureExt, join_all};

use super::super::host::Residency;
use super::super::survey;
use super::*;
use crate::backend::fake::{self, Fake};
use crate::request::{ClientBody, ModelId, TenantId, Text};

const MIB: u64 = 1 << 20;

/// Loads take two seconds; those of files named `broken` fail, of those named `panics` it dies.
#[derive(Debug, Default)]
struct Scripted {
    loads: AtomicUsize,
    last: Mutex<Option<Weak<Engine>>>,
}

impl Scripted {
    /// The thread of the engine that was loaded last ends.
    fn end_last(&self) {
        let last = self.last.lock().unwrap().as_ref().and_then(Weak::upgrade).unwrap();
        last.fake.set_status(Status { ready: false, ..Status::default() });
    }
}

/// An engine that answers for three seconds, and gives its seat back when dropped.
#[derive(Debug)]
struct Engine {
    fake: Fake,
    _seat: Seat,
}

impl Backend for Engine {
    fn start(&self, call: Call) -> BoxFuture<'_, Result<Completion>> {
        self.fake.start(call)
    }

    fn status(&self) -> Status {
        self.fake.status()
    }

    fn check(&self, request: &Request) -> Result<()> {
        self.fake.check(request)
    }
}

impl Loader for Arc<Scripted> {
    fn load(&self, order: Order) -> BoxFuture<'static, std::result::Result<Arc<dyn Backend>, String>> {
        self.loads.fetch_add(1, Ordering::Relaxed);
        let scripted = Arc::clone(self);
        async move {
            tokio::time::sleep(Duration::from_secs(2)).await;
            if order.config.file.ends_with("broken") {
                return Err("broken: it fails its test prompt".to_owned());
            }
            assert!(!order.config.file.ends_with("panics"), "the load dies");
            let answer = [fake::say("yes", &[-0.1]), fake::Step::Wait(Duration::from_secs(3)), fake::end(1, 1)];
            let engine = Arc::new(Engine { fake: Fake::new(answer), _seat: order.seat });
            *scripted.last.lock().unwrap() = Some(Arc::downgrade(&engine));
            Ok(engine as Arc<dyn Backend>)
        }
        .boxed()
    }
}

struct Town {
    house: House,
    loader: Arc<Scripted>,
}

impl Town {
    fn new(budget_mib: Option<u64>, load_wait: u64) -> Town {
        let loader = Arc::new(Scripted::default());
        let terms = Terms { budget: budget_mib.map(|budget| budget * MIB), load_wait: Duration::from_secs(load_wait) };
        let house = House {
            shelf: Shelf::new(terms, || None),
            loader: Arc::new(Arc::clone(&loader)),
            tasks: TaskTracker::new(),
        };
        Town { house, loader }
    }

    /// A model of a file of its own, of which 20 MiB are the model's alone.
    fn model(&self, file: &str, weights_mib: u64, residency: Residency) -> Arc<Resident> {
        let config = ModelConfig { residency, ..ModelConfig::new(ModelId::new(format!("local/{file}")), file) };
        let need = Need { weights: weights_mib * MIB, adapter: 0, kv: 15 * MIB, buffers: 5 * MIB };
        let survey = Survey { need, ..survey::sample(Purpose::Generate) };
        Resident::new(config, survey, self.house.clone(), Arc::default())
    }

    fn on_demand(&self, file: &str, weights_mib: u64) -> Arc<Resident> {
        self.model(file, weights_mib, Residency::OnDemand)
    }

    fn loads(&self) -> usize {
        self.loader.loads.load(Ordering::Relaxed)
    }
}

fn call() -> Call {
    let ask = Ask::Text(Text { prompts: vec![crate::request::Prompt::Text("x".into())], ..Text::default() });
    let request = Request {
        id: "test".into(),
        tenant: TenantId::anonymous(),
        model: "local/m".into(),
        stream: true,
        ask,
        body: ClientBody::default(),
        headers: Default::default(),
        authorization: None,
    };
    Call { request: Arc::new(request), model: ModelId::new("local/m"), trace: None }
}

async fn begin(model: &Arc<Resident>) -> Result<Completion> {
    model.start(call()).await
}

async fn answer(model: &Arc<Resident>) -> Result<usize> {
    Ok(begin(model).await?.deltas.count().await)
}

fn state(model: &Arc<Resident>) -> State {
    model.status().state
}

#[tokio::test(start_paused = true)]
async fn many_requests_find_it_unloaded_and_it_is_loaded_once() {
    let town = Town::new(None, 60);
    let model = town.on_demand("a", 10);
    assert_eq!((state(&model), model.status().ready), (State::Unloaded, true));
    let answers = join_all((0..20).map(|_| answer(&model))).await;
    assert!(answers.iter().all(|answer| matches!(answer, Ok(2))));
    assert_eq!((town.loads(), state(&model)), (1, State::Warm));
    let figures = model.figures();
    assert_eq!((figures.weights_bytes, figures.kv_bytes), (10 * MIB, 15 * MIB));
    assert_eq!((figures.loads, figures.failed_loads), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn who_cannot_wait_is_told_to_come_again_and_the_load_goes_on() {
    let town = Town::new(None, 1);
    let model = town.on_demand("a", 10);
    let error = answer(&model).await.unwrap_err();
    assert_eq!((error.kind(), error.detail().code), (Kind::Unavailable, Some("model_loading")));
    assert_eq!(error.detail().retry, Retry::After(COME_AGAIN));
    assert_eq!(state(&model), State::Loading);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(answer(&model).await.unwrap(), 2);
    assert_eq!(town.loads(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_does_not_stop_the_load() {
    let town = Town::new(None, 60);
    let model = town.on_demand("a", 10);
    let left = tokio::time::timeout(Duration::from_secs(1), begin(&model)).await;
    assert!(left.is_err());
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(state(&model), State::Warm);
}

#[tokio::test(start_paused = true)]
async fn the_least_recently_used_leaves_when_another_needs_the_room() {
    let town = Town::new(Some(100), 60);
    let [a, b, c] = ["a", "b", "c"].map(|file| town.on_demand(file, 20));
    for model in [&a, &b, &a, &c] {
        answer(model).await.unwrap();
    }
    assert_eq!([&a, &b, &c].map(state), [State::Warm, State::Unloaded, State::Warm], "b was used longest ago");
    answer(&b).await.unwrap();
    assert_eq!([&a, &b, &c].map(state), [State::Unloaded, State::Warm, State::Warm]);
}

#[tokio::test(start_paused = true)]
async fn a_model_with_a_request_in_flight_is_waited_for_and_never_unloaded() {
    let town = Town::new(Some(60), 60);
    let (a, b) = (town.on_demand("a", 20), town.on_demand("b", 20));
    let running = begin(&a).await.unwrap();
    let begun = Instant::now();
    let (rest, other) = tokio::join!(running.deltas.count(), answer(&b));
    assert_eq!((rest, other.unwrap()), (2, 2));
    // The answer of a, the load of b, its answer.
    assert_eq!(begun.elapsed(), Duration::from_secs(3 + 2 + 3));
    assert_eq!([&a, &b].map(state), [State::Unloaded, State::Warm]);
}

#[tokio::test(start_paused = true)]
async fn room_that_does_not_become_free_in_time_is_told_and_asked_for_again() {
    let town = Town::new(Some(60), 5);
    let (a, b) = (town.on_demand("a", 20), town.on_demand("b", 20));
    let running = begin(&a).await.unwrap();
    let error = answer(&b).await.unwrap_err();
    assert_eq!(error.detail().code, Some("model_loading"));
    drop(running);
    assert_eq!(answer(&b).await.unwrap(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_pinned_model_stays_and_the_refusal_has_figures() {
    let town = Town::new(Some(60), 60);
    let pinned = town.model("a", 20, Residency::Pinned);
    Arc::clone(&pinned).load(town.house.shelf.terms()).await.unwrap();
    let other = town.on_demand("b", 20);
    let error = answer(&other).await.unwrap_err();
    let told = "b: needs 40 MiB (weights 20 MiB, KV cache 15 MiB, buffers 5 MiB), 20 MiB of memory = 60 MiB left; \
                lower `slots` or `context`, or unload local/a";
    assert!(error.detail().message.ends_with(told), "{}", error.detail().message);
    assert_eq!(error.detail().code, Some("model_not_loaded"));
    assert_eq!((state(&pinned), town.loads()), (State::Warm, 1), "nothing of the other was allocated");
}

#[tokio::test(start_paused = true)]
async fn models_of_one_file_share_its_weights() {
    let town = Town::new(Some(60), 60);
    let (a, b) = (town.on_demand("a", 20), town.on_demand("a", 20));
    answer(&a).await.unwrap();
    answer(&b).await.unwrap();
    assert_eq!([&a, &b].map(state), [State::Warm, State::Warm], "20 of weights and twice 20 are 60");
}

#[tokio::test(start_paused = true)]
async fn a_load_that_failed_leaves_nothing_and_is_tried_again_after_half_a_minute() {
    let town = Town::new(Some(40), 60);
    let (broken, other) = (town.on_demand("broken", 20), town.on_demand("b", 20));
    for _ in 0..3 {
        let error = answer(&broken).await.unwrap_err();
        assert_eq!(error.detail().code, Some("model_not_loaded"));
        assert!(error.detail().message.contains("fails its test prompt"), "{}", error.detail().message);
    }
    assert_eq!((town.loads(), broken.figures().failed_loads), (1, 1));
    answer(&other).await.unwrap();
    tokio::time::sleep(PAUSE).await;
    assert!(answer(&broken).await.is_err());
    assert_eq!(town.loads(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_model_that_went_away_keeps_its_room_until_its_last_answer() {
    let town = Town::new(Some(60), 60);
    let old = town.model("a", 20, Residency::Pinned);
    Arc::clone(&old).load(town.house.shelf.terms()).await.unwrap();
    let running = begin(&old).await.unwrap();
    drop(old);
    let other = town.on_demand("b", 20);
    let (rest, answered) = tokio::join!(running.deltas.count(), answer(&other));
    assert_eq!((rest, answered.unwrap()), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn a_model_on_demand_whose_engine_ended_is_ready_and_loaded_anew() {
    let town = Town::new(Some(40), 60);
    let model = town.on_demand("a", 20);
    answer(&model).await.unwrap();
    town.loader.end_last();
    assert_eq!((state(&model), model.status().ready, model.is_over()), (State::Unloaded, true, true));
    assert_eq!(answer(&model).await.unwrap(), 2);
    assert_eq!((town.loads(), state(&model)), (2, State::Warm));
}

#[tokio::test(start_paused = true)]
async fn a_pinned_model_whose_engine_ended_is_not_ready() {
    let town = Town::new(None, 60);
    let model = town.model("a", 20, Residency::Pinned);
    Arc::clone(&model).load(town.house.shelf.terms()).await.unwrap();
    town.loader.end_last();
    assert!(!model.status().ready);
}

#[tokio::test(start_paused = true)]
async fn a_load_that_dies_is_a_load_that_failed() {
    let town = Town::new(Some(40), 60);
    let model = town.on_demand("panics", 20);
    for _ in 0..2 {
        let error = answer(&model).await.unwrap_err();
        assert_eq!(error.detail().code, Some("model_not_loaded"));
        assert!(error.detail().message.ends_with(UNEXPECTED), "{}", error.detail().message);
    }
    assert_eq!(town.loads(), 1);
    answer(&town.on_demand("b", 20)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_request_during_a_load_and_a_load_during_a_request_wait_for_the_one_that_runs() {
    let town = Town::new(None, 60);
    let (a, b) = (town.model("a", 20, Residency::Pinned), town.on_demand("b", 20));
    let terms = town.house.shelf.terms();
    let (loaded, answered) = tokio::join!(Arc::clone(&a).load(terms), answer(&a));
    assert_eq!((loaded, answered.unwrap(), town.loads()), (Ok(()), 2, 1));
    let (answered, loaded) = tokio::join!(answer(&b), Arc::clone(&b).load(terms));
    assert_eq!((loaded, answered.unwrap(), town.loads()), (Ok(()), 2, 2));
}
