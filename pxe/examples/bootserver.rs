//! A boot server of one directory, for trying the crate by hand and for its tests with real clients.
//!
//!     bootserver INTERFACE ADDRESS/PREFIX FIRST-LAST DIR [OPTION…]
//!     bootserver search INTERFACE
//!
//! Serves everyone. Firmware gets iPXE and iPXE gets `http://ADDRESS:PORT/boot.ipxe`, both from DIR before the
//! distribution's loaders. Prints `ready`, then every event on a line. Options: `proxy` (no addresses), `grub`
//! (shim and GRUB, not iPXE), `noprobe`, `quiet` (no events), `http=PORT` (80), `lease=SECONDS`, `leases=FILE`, `tftp=PORT` (69), `tftp-any`,
//! `nodhcp` (last), `reserve=MAC,ADDRESS`, `router=ADDRESS`, `subnet=NETWORK,FIRST-LAST` (behind a relay).

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use pxe::dhcp::{LeaseLog, Mode, NoLog, Range, Subnet};
use pxe::files::Roots;
use pxe::{
    BootAnswer, Content, Dhcp, DhcpConfig, Event, FileRequest, Http, HttpConfig, Identity, Leases,
    Loader, Mac, Machine, Policy, RedbLeases, Report, Stage, Tftp, TftpConfig,
};
use tokio::signal::unix::{SignalKind, signal};

type Failure = Box<dyn std::error::Error + Send + Sync>;

struct Everyone {
    script: String,
    loader: Loader,
    dir: PathBuf,
    reserved: Vec<(Mac, Ipv4Addr)>,
    quiet: bool,
}

impl Policy for Everyone {
    fn identify(&self, machine: &Machine) -> Option<Identity> {
        let address = self
            .reserved
            .iter()
            .find(|(mac, _)| *mac == machine.mac)
            .map(|(_, address)| *address);
        Some(Identity {
            hostname: Some(format!("pc-{}", machine.mac.hex())),
            address,
            ..Identity::default()
        })
    }

    fn boot(&self, _: &Machine, _: Stage) -> Option<BootAnswer> {
        Some(BootAnswer::Standard {
            loader: self.loader,
            script: self.script.clone(),
        })
    }

    fn file(&self, request: &FileRequest) -> Option<Content> {
        if request.path == "who" {
            return Some(Content::Bytes(
                format!("{:?} {}\n", request.mac, request.local).into(),
            ));
        }
        let file = self.dir.join(&request.path);
        file.is_file().then_some(Content::File(file))
    }

    fn report(&self, report: &Report) -> bool {
        println!("report {} {:?}", report.path, report.body);
        report.path != "unknown"
    }

    fn event(&self, event: Event) {
        if self.quiet {
            return;
        }
        let mac = event.mac.map_or("-".into(), |mac| mac.to_string());
        let ip = event.ip.map_or("-".into(), |ip| ip.to_string());
        println!("{mac} {ip} {:?}", event.what);
    }
}

struct Setup {
    dhcp: Option<DhcpConfig>,
    tftp: TftpConfig,
    http: HttpConfig,
    policy: Everyone,
    leases: Option<String>,
}

fn range(text: &str) -> Result<Range, Failure> {
    let (first, last) = text.split_once('-').ok_or("a range is FIRST-LAST")?;
    Ok(Range::new(first.parse()?, last.parse()?))
}

fn setup(args: &[String]) -> Result<Setup, Failure> {
    let [interface, network, addresses, dir, options @ ..] = args else {
        return Err("usage: bootserver INTERFACE ADDRESS/PREFIX FIRST-LAST DIR [OPTION…]".into());
    };
    let network: ipnet::Ipv4Net = network.parse()?;
    let server = network.addr();
    let mut subnet = Subnet::new(network);
    subnet.ranges = vec![range(addresses)?];
    let dhcp = DhcpConfig::full(interface, server, subnet);
    let policy = Everyone {
        script: String::new(),
        loader: Loader::Ipxe,
        dir: dir.into(),
        reserved: Vec::new(),
        quiet: false,
    };
    let (tftp, http) = (
        TftpConfig::new(interface, server),
        HttpConfig::new(interface, server),
    );
    let mut setup = Setup {
        dhcp: Some(dhcp),
        tftp,
        http,
        policy,
        leases: None,
    };
    for option in options {
        apply(&mut setup, option)?;
    }
    let base = format!("http://{server}:{}/", setup.http.port);
    setup.policy.script = format!("{base}boot.ipxe");
    if let Some(dhcp) = &mut setup.dhcp {
        dhcp.http_base = base;
    }
    setup.tftp.roots = Roots::loaders();
    Ok(setup)
}

fn apply(setup: &mut Setup, option: &str) -> Result<(), Failure> {
    let (name, value) = option.split_once('=').unwrap_or((option, ""));
    let Some(dhcp) = &mut setup.dhcp else {
        return Err("nodhcp comes last".into());
    };
    match name {
        "proxy" => (dhcp.mode, dhcp.probe) = (Mode::Proxy, Duration::ZERO),
        "grub" => setup.policy.loader = Loader::Grub,
        "noprobe" => dhcp.probe = Duration::ZERO,
        "quiet" => setup.policy.quiet = true,
        "http" => setup.http.port = value.parse()?,
        "tftp" => setup.tftp.port = value.parse()?,
        "tftp-any" => setup.tftp.address = Ipv4Addr::UNSPECIFIED,
        "lease" => dhcp.subnets[0].lease_time = Duration::from_secs(value.parse()?),
        "router" => dhcp.subnets[0].routers = vec![value.parse()?],
        "leases" => setup.leases = Some(value.into()),
        "nodhcp" => setup.dhcp = None,
        "reserve" => {
            let (mac, address) = value.split_once(',').ok_or("reserve=MAC,ADDRESS")?;
            setup.policy.reserved.push((mac.parse()?, address.parse()?));
        }
        "subnet" => {
            let (network, addresses) = value.split_once(',').ok_or("subnet=NETWORK,FIRST-LAST")?;
            let mut subnet = Subnet::new(network.parse()?);
            subnet.ranges = vec![range(addresses)?];
            dhcp.subnets.push(subnet);
        }
        _ => return Err(format!("unknown option {option}").into()),
    }
    Ok(())
}

async fn serve(setup: Setup) -> Result<(), Failure> {
    let log: Box<dyn LeaseLog> = match &setup.leases {
        Some(file) => Box::new(RedbLeases::open(file)?),
        None => Box::new(NoLog),
    };
    let leases = Leases::open(log)?;
    let policy = Arc::new(setup.policy);
    let tftp = Tftp::bind(setup.tftp, leases.clone(), policy.clone())?;
    let http = Http::bind(setup.http, leases.clone(), policy.clone())?;
    let dhcp = setup
        .dhcp
        .map(|config| Dhcp::bind(config, leases, policy))
        .transpose()?;
    println!("ready");
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let until = || {
        let mut stopped = stopped.clone();
        async move { drop(stopped.wait_for(|s| *s).await) }
    };
    let dhcp = async {
        match dhcp {
            Some(dhcp) => dhcp.run(until()).await,
            None => {
                until().await;
                Ok(())
            }
        }
    };
    let terminated = async {
        signal(SignalKind::terminate())?.recv().await;
        stop.send_replace(true);
        Ok::<_, Failure>(())
    };
    let (a, b, c, d) = tokio::join!(dhcp, tftp.run(until()), http.run(until()), terminated);
    a?;
    b?;
    c?;
    d
}

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [word, interface] = args.as_slice()
        && word == "search"
    {
        println!(
            "{:?}",
            pxe::dhcp::find_servers(interface, std::process::id(), Duration::from_secs(2))
        );
        return ExitCode::SUCCESS;
    }
    let done = match setup(&args) {
        Ok(setup) => serve(setup).await,
        Err(error) => Err(error),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bootserver: {error}");
            ExitCode::FAILURE
        }
    }
}
