//! What a new configuration keeps of the one before.

use super::*;

#[tokio::test]
async fn the_number_of_threads_stands_over_a_reload() {
    let first = Host::open(Vec::new(), Terms::new(1), None).await.unwrap();
    let second = Host::open(Vec::new(), Terms::new(4), Some(&first)).await.unwrap();
    assert_eq!(second.engine_threads, 1);
}

fn on_demand(name: &str, slots: u32) -> ModelConfig {
    let id = ModelId::new(format!("local/{name}"));
    ModelConfig { slots, residency: Residency::OnDemand, ..ModelConfig::new(id, "m.gguf") }
}

async fn host() -> Host {
    Host::open(Vec::new(), Terms::new(1), None).await.unwrap()
}

fn residents(house: &House, configs: &[ModelConfig]) -> Models {
    let survey = || crate::local::survey::sample(crate::local::survey::Purpose::Generate);
    let resident = |config: &ModelConfig| Resident::new(config.clone(), survey(), house.clone(), Arc::default());
    configs.iter().map(|config| (config.id.clone(), resident(config))).collect()
}

#[tokio::test]
async fn a_model_is_carried_over_under_its_own_name_or_a_new_one_and_only_once() {
    let house = host().await.house;
    let before = residents(&house, &[on_demand("a", 1), on_demand("a@canary", 2)]);
    let carried = |configs: &[ModelConfig]| {
        let of = |resident: &Arc<Resident>| {
            before.iter().find(|(_, known)| Arc::ptr_eq(known, resident)).map(|(id, _)| id.to_string())
        };
        let found = carry(&before, configs);
        found.iter().map(|(id, resident)| format!("{id} = {}", of(resident).unwrap())).collect::<Vec<_>>()
    };
    assert_eq!(carried(&[on_demand("a", 1), on_demand("b", 1)]), ["local/a = local/a"], "b is a model of its own");
    assert_eq!(carried(&[on_demand("a", 2)]), ["local/a = local/a@canary"], "promoted");
    assert_eq!(carried(&[on_demand("a", 3)]), [""; 0]);
    assert_eq!(carried(&[on_demand("b", 1), on_demand("c", 1)]), ["local/b = local/a"]);
}

/// Every load succeeds at once.
#[derive(Debug)]
struct AtOnce;

impl crate::local::resident::Loader for AtOnce {
    fn load(
        &self,
        _order: crate::local::resident::Order,
    ) -> futures::future::BoxFuture<'static, Result<Arc<dyn Backend>, String>> {
        Box::pin(async { Ok(Arc::new(crate::backend::fake::Fake::new([])) as Arc<dyn Backend>) })
    }
}

const BOUNDS: shelf::Terms = shelf::Terms { budget: None, load_wait: Duration::from_secs(7) };

#[tokio::test]
async fn a_carried_model_is_loaded_and_pinned_as_the_new_configuration_says() {
    let house = House { loader: Arc::new(AtOnce), ..host().await.house };
    let pinned = |name: &str| ModelConfig { residency: Residency::Pinned, ..on_demand(name, 1) };
    let before = residents(&house, &[on_demand("a", 1), pinned("b")]);
    let (models, change) = fill(vec![pinned("a"), on_demand("b", 1)], BOUNDS, &house, Some(&before)).await.unwrap();
    let [a, b] = ["local/a", "local/b"].map(|id| &models[&ModelId::new(id)]);
    let states = [a, b].map(|resident| resident.status().state);
    assert_eq!(states, [crate::backend::State::Warm, crate::backend::State::Unloaded]);
    let pins = || [a, b].map(|resident| resident.usage().pinned.load(Ordering::Relaxed));
    assert_eq!(pins(), [true, true], "what runs keeps its pins until then");
    change.keep();
    assert_eq!(pins(), [true, false]);
    assert_eq!(house.shelf.terms(), BOUNDS);
}

#[tokio::test]
async fn a_configuration_that_is_refused_leaves_pins_and_bounds_as_they_were() {
    let house = House { loader: Arc::new(AtOnce), ..host().await.house };
    let before = residents(&house, &[on_demand("a", 1)]);
    let pinned = || ModelConfig { residency: Residency::Pinned, ..on_demand("a", 1) };
    let is_pinned = || before[&ModelId::new("local/a")].usage().pinned.load(Ordering::Relaxed);
    let bounds = house.shelf.terms();
    let missing = ModelConfig::new(ModelId::new("local/missing"), "missing.gguf");
    assert!(fill(vec![pinned(), missing], BOUNDS, &house, Some(&before)).await.is_err());
    assert_eq!((is_pinned(), house.shelf.terms()), (false, bounds));
    let (_models, change) = fill(vec![pinned()], BOUNDS, &house, Some(&before)).await.unwrap();
    assert!(is_pinned());
    drop(change);
    assert_eq!((is_pinned(), house.shelf.terms()), (false, bounds), "refused by another part");
}
