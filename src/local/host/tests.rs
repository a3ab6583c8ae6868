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
