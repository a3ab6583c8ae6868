//! Budgets of tenants, and what of them outlives the process.

use std::fs;
use std::time::Duration;

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

fn pacing(usd_per_hour: f64, per: Per) -> Pacing {
    Pacing { policy: "p".into(), usd_per_hour, per, credit: HOUR }
}

#[tokio::test(start_paused = true)]
async fn tenants_have_budgets_of_their_own_or_one_in_all() {
    let pacers = Pacers::default();
    let [a, b] = ["a", "b"].map(TenantId::new);
    pacers.of(&pacing(1.0, Per::Tenant), &a).pace().spend(0.5, 0.0);
    pacers.of(&pacing(1.0, Per::Tenant), &b).pace().spend(0.25, 0.0);
    for tenant in [&a, &b] {
        pacers.of(&pacing(1.0, Per::All), tenant).pace().spend(1.0, 0.0);
    }
    let spent: Vec<_> = pacers.stand().iter().map(|one| (one.tenant.to_string(), one.spent_usd)).collect();
    assert_eq!(spent, [("a".to_owned(), 0.5), ("all".to_owned(), 2.0), ("b".to_owned(), 0.25)]);
}

#[tokio::test(start_paused = true)]
async fn another_rate_forgets_no_spending() {
    let pacers = Pacers::default();
    let tenant = TenantId::anonymous();
    let pacer = pacers.of(&pacing(4.0, Per::All), &tenant);
    pacer.pace().weigh(1.0, 1.0);
    pacer.pace().spend(1.0, 0.0);
    let again = pacers.of(&pacing(8.0, Per::All), &tenant);
    assert!(Arc::ptr_eq(&pacer, &again));
    assert!((pacers.stand()[0].lambda - 0.5).abs() < 1e-9, "the same dollar is half a window of it");
}

#[tokio::test(start_paused = true)]
async fn too_many_tenants_share_a_budget() {
    let pacers = Pacers::default();
    for number in 0..MOST_PACERS + 10 {
        pacers.of(&pacing(1.0, Per::Tenant), &TenantId::new(format!("t{number}"))).pace().spend(1.0, 0.0);
    }
    let stand = pacers.stand();
    assert_eq!(stand.len(), MOST_PACERS + 1);
    assert_eq!(stand.iter().find(|one| &*one.tenant == OTHER).map(|one| one.spent_usd), Some(10.0));
}

#[tokio::test(start_paused = true)]
async fn how_long_answers_are_is_learned() {
    let (pacers, model) = (Pacers::default(), ModelId::new("up/m"));
    assert_eq!(pacers.usual_output(&model), USUAL_OUTPUT);
    [10, 20, 30].into_iter().for_each(|tokens| pacers.saw_output(&model, tokens));
    assert_eq!(pacers.usual_output(&model), 20.0);
}

/// The budget that all pay from, kept in this folder.
fn kept(folder: &Path) -> (Arc<Pacers>, Arc<Pacer>) {
    let pacers = Arc::new(Pacers::default());
    pacers.keep(folder).unwrap();
    let pacer = pacers.of(&pacing(6.0, Per::All), &TenantId::anonymous());
    (pacers, pacer)
}

fn spent(pacers: &Pacers) -> f64 {
    pacers.stand()[0].spent_usd
}

/// The file as a crash would leave it now, in a folder of its own.
fn crashed(folder: &Path) -> tempfile::TempDir {
    let after = tempfile::tempdir().unwrap();
    fs::copy(folder.join("budgets.journal"), after.path().join("budgets.journal")).unwrap();
    after
}

#[tokio::test]
async fn after_a_crash_no_less_was_spent_and_at_most_a_lease_more() {
    let folder = tempfile::tempdir().unwrap();
    let (pacers, pacer) = kept(folder.path());
    for _ in 0..50 {
        pacers.settle(&pacer, 0.0, 0.05);
        pacers.covered(&pacer).await;
        let after = crashed(folder.path());
        let restored = spent(&kept(after.path()).0);
        // A lease is a minute of the rate, or eight of the dearest.
        assert!((spent(&pacers)..=spent(&pacers) + 0.4 + 1e-9).contains(&restored), "{restored}");
    }
}

#[tokio::test]
async fn a_clean_end_forgets_and_adds_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (pacers, pacer) = kept(folder.path());
    pacer.pace().weigh(0.2, 0.01);
    pacers.settle(&pacer, 0.0, 0.1 + 0.2);
    pacers.close();
    let lambda = pacers.stand()[0].lambda;
    let (again, _) = kept(folder.path());
    assert_eq!(spent(&again), 0.1 + 0.2);
    let difference = (again.stand()[0].lambda - lambda).abs();
    assert!(difference < 0.01 * lambda, "{lambda}: {difference}");
}

#[tokio::test]
async fn a_budget_that_is_not_used_is_not_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let (pacers, pacer) = kept(folder.path());
    pacers.settle(&pacer, 0.0, 1.0);
    pacers.close();
    for _ in 0..2 {
        let other = Arc::new(Pacers::default());
        other.keep(folder.path()).unwrap();
        other.of(&pacing(1.0, Per::Tenant), &TenantId::new("somebody"));
        other.close();
    }
    assert_eq!(spent(&kept(folder.path()).0), 1.0);
}

#[tokio::test]
async fn a_disk_that_refuses_holds_nobody_up() {
    let folder = tempfile::tempdir().unwrap();
    let (pacers, pacer) = kept(folder.path());
    pacers.covered(&pacer).await;
    // The writer may be at work in it.
    while fs::remove_dir_all(folder.path()).is_err() {}
    pacers.settle(&pacer, 0.0, 100.0);
    pacers.covered(&pacer).await;
    fs::create_dir(folder.path()).unwrap();
    pacers.settle(&pacer, 0.0, 1.0);
    while !pacers.is_kept.load(Ordering::Acquire) {
        tokio::task::yield_now().await;
    }
    pacers.covered(&pacer).await;
    assert!(spent(&kept(crashed(folder.path()).path()).0) >= 101.0);
}

#[tokio::test]
async fn the_next_process_goes_on_from_the_lease_and_is_told_what_was_really_spent() {
    let folder = tempfile::tempdir().unwrap();
    let (old, pacer) = kept(folder.path());
    old.settle(&pacer, 0.0, 1.0);
    old.release();
    let (new, _) = kept(folder.path());
    assert!(spent(&new) > 1.0);
    old.settle(&pacer, 0.0, 0.25);
    let other = old.of(&pacing(1.0, Per::Tenant), &TenantId::new("late"));
    old.settle(&other, 0.0, 0.5);
    new.correct(&old.corrections()).unwrap();
    new.of(&pacing(1.0, Per::Tenant), &TenantId::new("late"));
    let told: Vec<f64> = new.stand().iter().map(|one| one.spent_usd).collect();
    assert!((told[0] - 1.25).abs() < 1e-9 && (told[1] - 0.5).abs() < 1e-9, "{told:?}");
    assert!(new.correct("[{}]").is_err());
}

#[tokio::test]
async fn a_hand_over_that_fails_leaves_the_budget_where_it_was_and_what_the_other_spent_on_it() {
    let folder = tempfile::tempdir().unwrap();
    let (old, pacer) = kept(folder.path());
    old.settle(&pacer, 0.0, 1.0);
    old.release();
    old.settle(&pacer, 0.0, 0.25);
    old.keep(folder.path()).unwrap();
    assert_eq!(spent(&old), 1.25);
    old.release();
    let (new, other) = kept(folder.path());
    let lease = spent(&new) - 1.25;
    new.settle(&other, 0.0, 0.5);
    new.close();
    drop(new);
    old.keep(folder.path()).unwrap();
    assert!((spent(&old) - 1.75).abs() < 1e-9, "{lease}");
}
