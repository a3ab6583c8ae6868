//! A reload replaces everything at once or nothing, and what did not change stays as it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::Notify;
use tokio::task::JoinSet;
use weir::account::Outcome;

use super::house::{House, Reply, answer, chat, connect, events, read_until, streamed, upstream};
use crate::fake_upstream::{Answer, FakeUpstream, Piece};

/// An upstream whose answers say who it is.
async fn calling_itself(name: &'static str) -> FakeUpstream {
    FakeUpstream::start(move |asked| {
        let said = events(name);
        let pieces: Vec<&str> = said.iter().map(String::as_str).collect();
        let stream = String::from_utf8_lossy(&asked.body).contains("\"stream\":true");
        if stream { Answer::events(&pieces) } else { Answer::json(answer(name)) }
    })
    .await
}

/// Generation by generation in turn: the upstream behind `up`, its price, and the policy's name.
struct Side {
    upstream: FakeUpstream,
    name: &'static str,
    config: String,
    cost: &'static str,
}

impl Side {
    async fn new(name: &'static str, input: &str, cost: &'static str) -> Side {
        let upstream = calling_itself(name).await;
        let config = self::upstream("up", &upstream, "models = [\"m\"]")
            + &format!("[[virtual]]\nname = \"auto\"\npolicy = \"{name}.toml\"\n")
            + &format!("[[price]]\nmodel = \"up/m\"\ninput = {input}\noutput = 0\n");
        Side { upstream, name, config, cost }
    }

    fn policy(&self) -> String {
        format!("name = \"{}\"\n[[rule]]\nname = \"all\"\nthen = {{ serve = \"up/m\" }}\n", self.name)
    }

    /// Whether the answer is of this side in every respect.
    fn made(&self, reply: &Reply, stream: bool) -> bool {
        let policy = reply.header("x-weir-policy").split('@').next() == Some(self.name);
        let text = reply.text().contains(&format!("\"content\":\"{}\"", self.name));
        let cost = if stream {
            reply.text().contains(&format!(": weir cost-usd={}\n", self.cost))
        } else {
            reply.header("x-weir-cost-usd") == self.cost
        };
        policy && text && cost
    }
}

fn generation(reply: &Reply) -> u64 {
    let policy = reply.header("x-weir-policy");
    policy.split(['@', ';']).nth(1).and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{policy:?}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_load_every_answer_is_of_one_generation_and_none_is_lost() {
    let sides = Arc::new([Side::new("odd", "1", "0.00001").await, Side::new("even", "2", "0.00002").await]);
    let files: Vec<(String, String)> =
        sides.iter().map(|side| (format!("{}.toml", side.name), side.policy())).collect();
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let house = Arc::new(House::open_with(&sides[0].config, &files, &[]).await);
    let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut clients = JoinSet::new();
    for client in 0..8 {
        let (house, sides, stop, asked) =
            (Arc::clone(&house), Arc::clone(&sides), Arc::clone(&stop), Arc::clone(&asked));
        clients.spawn(async move {
            let stream = client % 2 == 0;
            let body = if stream { streamed("auto") } else { chat("auto") };
            let mut seen = 0;
            while !stop.load(Ordering::SeqCst) {
                asked.fetch_add(1, Ordering::SeqCst);
                let reply = house.chat(&body).await;
                let number = generation(&reply);
                assert!(number >= seen, "generation {number} after {seen}");
                seen = number;
                let side = &sides[usize::from(number.is_multiple_of(2))];
                assert!(side.made(&reply, stream), "generation {number}: {:?}\n{}", reply.headers, reply.text());
            }
        });
    }
    for reload in 0..60_u64 {
        let next = &sides[usize::from(reload.is_multiple_of(2))];
        house.write("weir.toml", &next.config);
        assert_eq!(house.reload().await.unwrap(), reload + 2);
        house.adopt();
        let before = asked.load(Ordering::SeqCst);
        while asked.load(Ordering::SeqCst) < before + 8 {
            tokio::task::yield_now().await;
        }
    }
    stop.store(true, Ordering::SeqCst);
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    let asked = asked.load(Ordering::SeqCst);
    let receipts = house.receipts(asked).await;
    assert_eq!(receipts.len(), asked);
    assert!(receipts.iter().all(|receipt| receipt.outcome == Outcome::Ok), "{receipts:#?}");
    assert_eq!(sides.iter().map(|side| side.upstream.asked().len()).sum::<usize>(), asked);
}

#[tokio::test]
async fn a_refused_file_changes_nothing_and_every_problem_is_told() {
    let fake = calling_itself("one").await;
    let good = upstream("up", &fake, "models = [\"m\"]");
    let house = House::open(&good).await;
    let bad = format!("workers = 0\nnonsense = 1\n{good}[[virtual]]\nname = \"auto\"\npolicy = \"p.toml\"\n");
    house.write("weir.toml", &bad);
    house.write("p.toml", "name = \"p\"\n[[rule]]\nname = \"x\"\nthen = { serve = \"up/m\" }\nnonsense = 1\n");
    let problems = house.reload().await.unwrap_err();
    let places: Vec<&str> = problems.iter().map(|problem| problem.place.rsplit('/').next().unwrap()).collect();
    assert_eq!(places, ["weir.toml:1", "weir.toml:2", "p.toml:5"], "{problems:#?}");
    assert_eq!(house.ask("up/m").await.header("x-weir-policy"), "direct@1; rule=named");
    house.write("weir.toml", &good);
    assert_eq!(house.reload().await, Ok(1), "what runs already");
    house.write("weir.toml", &format!("max_body = \"1MiB\"\n{good}"));
    assert_eq!(house.reload().await, Ok(2));
    assert_eq!(house.ask("up/m").await.header("x-weir-policy"), "direct@2; rule=named");
}

#[tokio::test]
async fn an_unchanged_upstream_keeps_its_connections_and_a_changed_one_gets_new_ones() {
    let fake = calling_itself("one").await;
    let config = upstream("up", &fake, "models = [\"m\"]");
    let house = House::open(&config).await;
    house.ask("up/m").await;
    house.write("weir.toml", &format!("{config}[[price]]\nmodel = \"up/m\"\ninput = 1\noutput = 1\n"));
    house.reload().await.unwrap();
    assert_eq!(house.ask("up/m").await.header("x-weir-cost-usd"), "0.000015");
    assert_eq!(fake.accepted(), 1);
    house.write("weir.toml", &config.replace("retries = 0", "retries = 1"));
    house.reload().await.unwrap();
    assert_eq!(house.ask("up/m").await.status, 200);
    assert_eq!(fake.accepted(), 2);
}

#[tokio::test]
async fn a_breaker_that_is_open_stays_open_over_a_reload() {
    let fake = FakeUpstream::saying(Answer::json("{}").status(500)).await;
    let config = upstream("up", &fake, "models = [\"m\"]");
    let house = House::open(&config).await;
    while fake.asked().len() < 5 {
        assert_eq!(house.ask("up/m").await.status, 500);
    }
    let is_open = |house: &House| house.rendered().contains("weir_breaker{model=\"up/m\",state=\"open\"} 1");
    assert!(is_open(&house), "{}", house.rendered());
    house.write("weir.toml", &format!("max_body = \"1MiB\"\n{config}"));
    house.reload().await.unwrap();
    assert!(is_open(&house));
    let reply = house.ask("up/m").await;
    assert!(reply.message().contains("circuit breaker is open"), "{}", reply.message());
    assert_eq!(fake.asked().len(), 5);
}

#[tokio::test]
async fn an_answer_in_flight_is_finished_by_the_generation_it_began_with() {
    let gate = Arc::new(Notify::new());
    let said = events("one");
    let rest: Vec<&str> = said[1..].iter().map(String::as_str).collect();
    let answer = Answer::events(&[&said[0]]).then(Piece::Wait(Arc::clone(&gate))).and(&rest);
    let fake = FakeUpstream::saying(answer).await;
    let priced = |name: &str, input: u32| {
        upstream(name, &fake, "models = [\"m\"]")
            + &format!("[[price]]\nmodel = \"{name}/m\"\ninput = {input}\noutput = 0\n")
    };
    let house = House::open(&priced("up", 1)).await;
    let mut client = connect(&house, &streamed("up/m")).await;
    read_until(&mut client, "one").await;
    house.write("weir.toml", &priced("other", 2));
    house.reload().await.unwrap();
    assert_eq!(house.ask("up/m").await.status, 404);
    gate.notify_one();
    let rest = read_until(&mut client, "[DONE]").await;
    assert!(rest.contains(": weir cost-usd=0.00001\n"), "{rest}");
}
