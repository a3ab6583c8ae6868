//! One pass: some sequences at once from their prompts to the last measured step, and its clocks.

use tokio::time::Instant;

/// What a pass is to do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    /// Sequences at once.
    pub(crate) sequences: usize,
    /// Steps that are measured, a token of every sequence each.
    pub(crate) steps: usize,
}

/// What a pass took.
#[derive(Debug, Clone)]
pub(crate) struct Pass {
    /// Tokens of all sequences per second of wall time.
    pub(crate) per_second: f64,
    /// Tokens of all sequences per second of this process's CPU time.
    pub(crate) per_cpu_second: f64,
    /// Seconds from the start to each sequence's first token.
    pub(crate) first_tokens: Vec<f64>,
}

/// How full a cache is when the measured part of a pass begins, in tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fill {
    /// Of each sequence beyond its prompt.
    pub(crate) grown: Vec<usize>,
    /// Of sequences that nobody decodes.
    pub(crate) idle: usize,
}

impl Fill {
    /// Each sequence has said so many tokens, of which the last is not in the cache yet; the
    /// cache holds so many in all.
    pub(crate) fn new(prompts: &[Vec<u32>], said: &[usize], held: usize) -> Fill {
        let grown: Vec<usize> = said.iter().map(|tokens| tokens - 1).collect();
        let own = prompts.iter().map(Vec::len).chain(grown.iter().copied()).sum::<usize>();
        Fill { grown, idle: held.saturating_sub(own) }
    }
}

/// The two clocks at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clocks {
    wall: Instant,
    cpu: f64,
}

impl Clocks {
    /// Now.
    pub(crate) fn read() -> Clocks {
        Clocks { wall: Instant::now(), cpu: cpu_seconds() }
    }

    /// The pass that gave `tokens` tokens since then, after these first ones.
    pub(crate) fn pass(self, tokens: usize, first_tokens: Vec<f64>) -> Pass {
        let tokens = tokens as f64;
        Pass {
            per_second: tokens / self.wall.elapsed().as_secs_f64(),
            per_cpu_second: tokens / (cpu_seconds() - self.cpu),
            first_tokens,
        }
    }
}

/// CPU time of all threads of this process.
fn cpu_seconds() -> f64 {
    let tasks = std::fs::read_dir("/proc/self/task").expect("a list of threads");
    let spent = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok());
    let nanos = spent.filter_map(|line| line.split(' ').next()?.parse::<u64>().ok());
    nanos.sum::<u64>() as f64 * 1e-9
}
