//! The `proxy-agent` program.

use std::{
    ffi::OsString,
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result};
use clap::{CommandFactory as _, Parser, Subcommand, error::ErrorKind};
use clap_complete::Shell;
use proxy_agent::{
    cli::{CheckArgs, CleanupArgs, Instead, Readiness, TableCommand},
    config::{Action, Config, ConfigErrors, RunFlags},
    error::one_line,
    run,
};
use tokio::signal::unix::{SignalKind, signal};

/// How long a write of the tables may take to end when the process is told to.
const LAST_WRITE: Duration = Duration::from_secs(2);
/// As the program is called.
const NAME: &str = "proxy-agent";

/// Serves Kubernetes Services on a node with eBPF, in place of kube-proxy.
#[derive(Parser)]
#[command(name = NAME, version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the node agent.
    Run(Box<RunFlags>),
    #[command(flatten)]
    Tables(TableCommand),
    /// Looks whether the agent can run on this node with the given flags, and says what to do where it cannot. Ends with status 1
    /// where something stands in its way.
    Check(Box<CheckArgs>),
    /// Prints what makes a shell complete the program's commands and flags.
    Completion {
        /// The shell.
        shell: Shell,
    },
    /// Prints the program's manual page, or writes those of all commands.
    Man {
        /// Write a page for each command into this directory.
        #[arg(long, value_name = "DIR")]
        directory: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse_from(std::env::args_os().map(with_dashes)) {
        Ok(cli) => cli,
        Err(error) => {
            let code = match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
                _ => ExitCode::FAILURE,
            };
            // Nobody is left to tell that the terminal is gone.
            let _ = error.print();
            return code;
        }
    };
    let result = match cli.command {
        Command::Run(flags) => run_agent(&flags),
        // Styles are for terminals only; NO_COLOR and CLICOLOR_FORCE are followed.
        Command::Tables(command) => command.run(&mut anstream::stdout().lock()).map_err(anyhow::Error::from),
        Command::Check(check) => match check.run(&mut anstream::stdout().lock()) {
            Ok(Readiness::Ready) => Ok(()),
            Ok(Readiness::NotReady) => return ExitCode::FAILURE,
            Err(error) => Err(error.into()),
        },
        Command::Completion { shell } => print_generated(|out| {
            clap_complete::generate(shell, &mut Cli::command(), NAME, out);
            Ok(())
        }),
        Command::Man { directory: None } => print_generated(|out| clap_mangen::Man::new(Cli::command()).render(out)),
        Command::Man { directory: Some(directory) } => write_pages(&directory),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let text = error.to_string();
            // Several mistakes are a line each; anything else is one line with its causes.
            let text = if text.contains('\n') { text } else { one_line(error.as_ref()) };
            for line in text.lines() {
                eprintln!("proxy-agent: {line}");
            }
            ExitCode::FAILURE
        }
    }
}

/// Prints what `generate` makes of the command line's definition. A reader that has read enough is no error.
fn print_generated(generate: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> Result<()> {
    let mut text = Vec::new();
    generate(&mut text)?;
    match io::stdout().lock().write_all(&text) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("cannot write the output"),
    }
}

fn write_pages(directory: &Path) -> Result<()> {
    clap_mangen::generate_to(Cli::command(), directory)
        .with_context(|| format!("manual pages cannot be written into {}", directory.display()))
}

/// A flag with dashes where it has underscores: kube-proxy's, like all of Kubernetes, may be written both ways.
fn with_dashes(argument: OsString) -> OsString {
    let Some(text) = argument.to_str().filter(|text| text.starts_with("--")) else { return argument };
    let (name, value) = text.split_at(text.find('=').unwrap_or(text.len()));
    (name.replace('_', "-") + value).into()
}

fn run_agent(flags: &RunFlags) -> Result<()> {
    // Whatever is to be done, the configuration must be right.
    let config = Config::load(flags)?;
    match flags.action().map_err(ConfigErrors::of_flags)? {
        Action::Run => run_until_stopped(flags, config),
        Action::WriteConfig => write_config(flags),
        Action::CleanUp => {
            let Config { bpffs_root, cgroup_root, .. } = config;
            let arguments = CleanupArgs { bpffs_root, cgroup_root, instead: Instead::default() };
            Ok(TableCommand::Cleanup(arguments).run(&mut io::stdout().lock())?)
        }
        Action::Initialize => {
            log(&config)?;
            run::initialize(&config)
        }
    }
}

fn write_config(flags: &RunFlags) -> Result<()> {
    let Some(path) = &flags.write_config_to else { return Ok(()) };
    let text = Config::effective(flags)?;
    std::fs::write(path, text).with_context(|| format!("{} cannot be written", path.display()))
}

fn log(config: &Config) -> Result<()> {
    let refinement = std::env::var("RUST_LOG").ok();
    let filter = run::filter(config.verbosity, refinement.as_deref()).map_err(anyhow::Error::msg)?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
    Ok(())
}

fn run_until_stopped(flags: &RunFlags, config: Config) -> Result<()> {
    log(&config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("the runtime cannot be started")?;
    let writer = run::writer().context("the thread that writes the tables cannot be started")?;
    let result = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be waited for")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be waited for")?;
        let stop = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::info!("told to stop; the dataplane goes on without the agent");
        };
        // On the heap: the whole agent's state is too large to be moved about on the stack.
        Box::pin(run::run(flags, config, writer.handle().clone(), stop)).await
    });
    writer.shutdown_timeout(LAST_WRITE);
    runtime.shutdown_timeout(LAST_WRITE);
    result
}
