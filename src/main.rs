//! The program: arguments → configuration → boot → serve → drain.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use futures::future::BoxFuture;
use tracing_subscriber::EnvFilter;
use weir::account::Record;
use weir::cli::{Cli, Command, Serve};
use weir::control::{Checked, Control, Environment, Options};
use weir::gateway::Gateway;
use weir::listen::{self, Running};
use weir::observe::Metrics;
use weir::{cli, control};

/// A pass-through request is many small allocations: measured, 35.1 µs of CPU each against 38.3 with glibc.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Serve(flags) => serve(&flags),
        Command::Check { paths, against, last } => {
            let right = match against {
                Some(admin) => cli::check_against(&paths, &admin, last),
                None => Ok(cli::check(&paths)),
            };
            right.map(|right| ExitCode::from(u8::from(!right)))
        }
        Command::Eval(flags) => flags.run().map(|()| ExitCode::SUCCESS),
        Command::Calibrate(flags) => flags.run().map(|()| ExitCode::SUCCESS),
        Command::Gap(flags) => flags.run().map(|()| ExitCode::SUCCESS),
        Command::Models(flags) => flags.run().map(|()| ExitCode::SUCCESS),
        Command::Replay(flags) => flags.run().map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|message| {
        eprintln!("weir: {message}");
        ExitCode::FAILURE
    })
}

fn serve(flags: &Serve) -> Result<ExitCode, String> {
    log();
    let options = flags.options();
    let checked = control::read(&options).map_err(|problems| lines(&problems))?;
    let config = listen::Config {
        listen: checked.listen.clone(),
        admin: checked.admin.clone(),
        workers: checked.workers,
        grace: flags.grace(),
        drain: flags.drain(),
        handover: flags.handover.clone(),
        socket_names: Environment::default().get("LISTEN_FDNAMES"),
    };
    let boot = move |beside| Box::pin(boot(Options { beside, ..options }, checked)) as BoxFuture<'static, _>;
    listen::serve(&config, Box::new(boot))
}

/// Loads models, opens pools, puts the rooms together.
async fn boot(options: Options, checked: Checked) -> Result<Running, String> {
    let place = checked.place.clone();
    let open = if options.beside { Metrics::open_beside } else { Metrics::open };
    let metrics = Arc::new(open(checked.capture.as_ref())?.tracing(checked.telemetry.as_ref())?);
    let control = Arc::new(Control::open(options, checked).await.map_err(|problems| lines(&problems))?);
    let names: Vec<String> = control.current().entries().into_iter().map(|entry| entry.id).collect();
    tracing::info!(configuration = place, names = names.join(" "), "built");
    let gateway = Arc::new(Gateway::new(Arc::clone(&control), Arc::clone(&metrics) as Arc<dyn Record>));
    Ok(Running { gateway, control, metrics })
}

fn lines(problems: &[weir::error::Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\nweir: ")
}

/// Logs go to stderr: as text to a terminal, else as JSON; `WEIR_LOG` filters them.
fn log() {
    let filter =
        Environment::default().get("WEIR_LOG").unwrap_or_else(|| "info,pingora_core=warn,llama-cpp-2=warn".to_owned());
    let subscriber = tracing_subscriber::fmt().with_env_filter(EnvFilter::new(filter)).with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        subscriber.init();
    } else {
        subscriber.json().flatten_event(true).init();
    }
}
