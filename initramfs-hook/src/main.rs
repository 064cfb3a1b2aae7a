//! `bootroom-attach`: keeps a network disk attached for as long as the machine runs.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use bootroom_attach::agent::{Agent, Reporting};
use bootroom_attach::args::{Attach, Command, HELP};
use bootroom_attach::attachment::{Attachment, Settings};
use bootroom_attach::cmdline::{DeviceIndex, Plan};
use bootroom_attach::console::{Console, Level};
use bootroom_attach::error::{Error, Kind, Result};
use bootroom_attach::kernel::Kernel;
use bootroom_attach::post::{Post, Progress};
use bootroom_attach::report::{Event, ReportUrl};
use bootroom_attach::security::Security;
use bootroom_attach::uri::Server;
use bootroom_attach::{clock, daemon, guard, identity, net, secret};

/// How long a server may be silent before it is given up.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let args = std::env::args_os()
        .skip(1)
        .map(|arg| arg.to_string_lossy().into_owned());
    match Command::parse(args).and_then(execute) {
        Ok(code) => code,
        Err(error) => fail(&error.to_string(), error.kind()),
    }
}

fn fail(text: &str, kind: Kind) -> ExitCode {
    eprintln!("bootroom-attach: {text}");
    ExitCode::from(if kind == Kind::Usage { 2 } else { 1 })
}

fn execute(command: Command) -> Result<ExitCode> {
    match command {
        Command::Help => print!("{HELP}"),
        Command::Version => println!("bootroom-attach {}", env!("CARGO_PKG_VERSION")),
        Command::Wanted => {
            return Ok(if kernel_plan()?.disks.is_empty() {
                ExitCode::from(1)
            } else {
                ExitCode::SUCCESS
            });
        }
        Command::Identity(root) => identity::settle(Path::new(identity::PLACE), &root)?,
        Command::Interface => println!("{}", interface()?),
        Command::Detach(device) => detach(device)?,
        Command::Say(event, url) => say(event, url)?,
        Command::Guard(ending) => {
            rerun()?;
            guard::stand(ending)?;
        }
        Command::Attach(attach) => return start(attach),
    }
    Ok(ExitCode::SUCCESS)
}

fn kernel_plan() -> Result<Plan> {
    let unreadable = |e| Error::with(Kind::Kernel, "the kernel command line cannot be read", e);
    Plan::parse(&std::fs::read_to_string("/proc/cmdline").map_err(unreadable)?)
}

/// Name and hardware address of the interface by which the first disk is reached: towards the first of its servers to
/// which there is a way.
fn interface() -> Result<String> {
    let plan = kernel_plan()?;
    let missing = |what: &str| Error::new(Kind::Network, what);
    let disk = plan
        .disks
        .first()
        .ok_or_else(|| missing("the kernel command line asks for no disk"))?;
    let places = net::resolve(&disk.target.servers)?;
    let mut ways = places.iter().map(|place| {
        let server = place.address;
        net::interface_towards(server)
            .map_err(|e| Error::with(Kind::Network, format!("there is no way to {server}"), e))
    });
    let first = ways
        .next()
        .unwrap_or_else(|| Err(missing("no server is known")));
    let found = first.or_else(|error| ways.find_map(Result::ok).ok_or(error))?;
    let (name, mac) = found.ok_or_else(|| missing("no Ethernet interface leads to the disk"))?;
    let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
    Ok(format!("{name} {mac}"))
}

fn detach(device: DeviceIndex) -> Result<()> {
    Kernel::open()?.disconnect(device)
}

/// Reports once, and waits until it has arrived.
fn say(event: Event, url: Option<ReportUrl>) -> Result<()> {
    let (url, others) = match url {
        Some(url) => (Some(url), Vec::new()),
        None => reported_to(kernel_plan()?),
    };
    let Some(url) = url else {
        return Ok(());
    };
    let request = url.request(event, clock::uptime(), None);
    let port = url.server().port;
    let servers = others.into_iter().map(|other| Server { port, ..other });
    let mut servers = [url.server().clone()].into_iter().chain(servers);
    match servers.any(|server| deliver(&server, &request)) {
        true => Ok(()),
        false => Err(Error::new(
            Kind::Network,
            format!("{url} did not take the report"),
        )),
    }
}

/// Where reports go by the kernel command line, and the further servers of the root disk, one of which may have taken over.
fn reported_to(plan: Plan) -> (Option<ReportUrl>, Vec<Server>) {
    let servers = plan
        .disks
        .into_iter()
        .next()
        .map(|disk| disk.target.servers);
    let others = servers.unwrap_or_default().into_iter().skip(1);
    (plan.report, others.collect())
}

fn deliver(server: &Server, request: &[u8]) -> bool {
    let found = net::resolve(std::slice::from_ref(server));
    let Some(place) = found.ok().and_then(|found| found.into_iter().next()) else {
        return false;
    };
    let Ok(mut post) = Post::begin(place.address, request.to_vec(), clock::now()) else {
        return false;
    };
    loop {
        let (fd, flags) = post.watch();
        clock::wait(
            &mut [rustix::event::PollFd::from_borrowed_fd(fd, flags)],
            Some(post.deadline()),
        );
        match post.proceed(clock::now()) {
            Progress::Underway => {}
            Progress::Delivered => return true,
            Progress::Failed => return false,
        }
    }
}

/// Goes on from memory, if this is not done yet.
fn rerun() -> Result<()> {
    let args: Vec<_> = std::env::args_os().collect();
    daemon::rerun_from_memory(&args).map_err(not_started)
}

fn not_started(source: std::io::Error) -> Error {
    Error::with(Kind::Kernel, "the agent cannot be started", source)
}

/// Splits off the agent and waits until its disks are there.
fn start(attach: Attach) -> Result<ExitCode> {
    rerun()?;
    if attach.foreground {
        serve(attach, |_| Ok(()))?;
        return Ok(ExitCode::SUCCESS);
    }
    match daemon::split().map_err(not_started)? {
        Ok(word) => Ok(word.wait().map_or_else(
            |reason| fail(&reason, Kind::Network),
            |()| ExitCode::SUCCESS,
        )),
        Err(speaker) => Ok(background(attach, speaker)),
    }
}

fn background(attach: Attach, speaker: daemon::Speaker) -> ExitCode {
    let mut speaker = Some(speaker);
    let served = serve(attach, |console| {
        daemon::release_streams(console)?;
        speaker
            .take()
            .into_iter()
            .for_each(|speaker| speaker.say(Ok(())));
        Ok(())
    });
    match (served, speaker) {
        (Ok(()), _) => ExitCode::SUCCESS,
        (Err(error), Some(speaker)) => {
            speaker.say(Err(&error.to_string()));
            ExitCode::FAILURE
        }
        (Err(_), None) => ExitCode::FAILURE,
    }
}

/// Attaches, calls `attached`, and stays until no disk is left.
fn serve(attach: Attach, attached: impl FnOnce(&mut Console) -> std::io::Result<()>) -> Result<()> {
    let mut console = Console::open();
    let plan = attach.plan.clone().map_or_else(kernel_plan, Ok)?;
    if plan.disks.is_empty() {
        return Err(Error::new(
            Kind::Usage,
            "the kernel command line asks for no disk (nbdroot=HOST:PORT/EXPORT)",
        ));
    }
    let settings = Settings {
        request_timeout: attach.request_timeout.unwrap_or(REQUEST_TIMEOUT),
        security: Security::load(&[&attach.tls, Path::new(identity::TLS)])?,
    };
    fetch_secret(&plan, &settings, attach.patience, &mut console)?;
    let attachments = attachments(&plan, settings.request_timeout)?;
    let reporting = attach
        .report
        .or(plan.report)
        .and_then(|url| reporting(url, &mut console));
    for warning in daemon::fortify() {
        console.say(Level::Warning, &warning);
    }
    let mut agent = Agent::new(Kernel::open()?, console, settings, attachments, reporting);
    agent.attach(attach.patience)?;
    if plan.hold_lease {
        agent.hold_lease(clock::seed());
    }
    attached(agent.console())
        .map_err(|e| Error::with(Kind::Kernel, "the agent cannot let go of its streams", e))?;
    agent.run();
    Ok(())
}

/// Completes this machine's identity, as long as the server gives it out: until the disk is attached. A server that will
/// not is no reason not to boot; one that does not answer would not give out the disk either.
fn fetch_secret(
    plan: &Plan,
    settings: &Settings,
    patience: Option<std::time::Duration>,
    console: &mut Console,
) -> Result<()> {
    let place = Path::new(identity::PLACE);
    let wanted = plan
        .secret_target()
        .filter(|_| identity::lacks_secret(place));
    let Some((target, security)) = wanted.zip(settings.security.as_ref()) else {
        return Ok(());
    };
    let servers = net::resolve(&target.servers)?;
    let kept = secret::fetch(&target, &servers, security, patience)
        .and_then(|secret| identity::keep(place, &secret));
    match kept {
        Err(error) if error.kind() == Kind::Network => Err(error),
        Err(error) => {
            console.say(Level::Warning, &format!("no host key: {error}"));
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

fn attachments(plan: &Plan, patience: std::time::Duration) -> Result<Vec<Attachment>> {
    let seed = clock::seed();
    let attachment = |disk: &bootroom_attach::cmdline::Disk| {
        Ok(Attachment::new(
            disk.clone(),
            net::resolve(&disk.target.servers)?,
            patience,
            seed,
            clock::now(),
        ))
    };
    plan.disks.iter().map(attachment).collect()
}

/// A report URL that cannot be looked up is no reason not to boot.
fn reporting(url: ReportUrl, console: &mut Console) -> Option<Reporting> {
    match net::resolve(std::slice::from_ref(url.server())) {
        Ok(places) => Some((url, places.first()?.address)),
        Err(error) => {
            console.say(Level::Warning, &format!("no reports: {error}"));
            None
        }
    }
}
