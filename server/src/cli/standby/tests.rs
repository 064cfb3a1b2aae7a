use clap::{CommandFactory, Parser, error::ErrorKind};

use super::*;
use crate::cli::{Cli, Command};

fn parse(line: &str) -> Result<StandbyCommand, clap::Error> {
    let cli = Cli::try_parse_from(format!("bootroom standby {line}").split_whitespace())?;
    match cli.command {
        Command::Standby(command) => Ok(command),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_command_line_holds_together() {
    Cli::command().debug_assert();
}

#[test]
fn each_verb_is_read() {
    let promote = parse("promote --force --yes --config /c");
    let Ok(StandbyCommand::Promote(PromoteOptions { force, yes, .. })) = promote else {
        panic!("{promote:?}");
    };
    assert!(force && yes);
    let back = parse("promote --force --before-resync");
    let Ok(StandbyCommand::Promote(PromoteOptions { before_resync, .. })) = back else {
        panic!("{back:?}");
    };
    assert!(before_resync);
    assert!(
        parse("promote --before-resync").is_err(),
        "never by the way"
    );
    assert!(matches!(
        parse("status -w --json"),
        Ok(StandbyCommand::Status(_))
    ));
    assert!(matches!(parse("handover"), Ok(StandbyCommand::Handover(_))));
    assert!(matches!(
        parse("verify --json"),
        Ok(StandbyCommand::Verify(_))
    ));
    let discard = parse("discard --yes");
    assert!(matches!(
        discard,
        Ok(StandbyCommand::Discard(AskedOptions { yes: true, .. }))
    ));
    let accept = parse("accept-witness");
    assert!(matches!(
        accept,
        Ok(StandbyCommand::AcceptWitness(AskedOptions {
            yes: false,
            ..
        }))
    ));
    let secret = parse("secret");
    let Ok(StandbyCommand::Secret(SecretOptions { file })) = secret else {
        panic!("{secret:?}");
    };
    assert_eq!(file.to_str(), Some("/etc/bootroom/pair.secret"));
}

#[test]
fn mistakes_are_refused() {
    for line in [
        "",
        "promot",
        "handover --force",
        "promote --now",
        "secret a b",
        "status 10.0.0.1",
    ] {
        let error = parse(line).expect_err(line);
        assert_ne!(error.exit_code(), 0, "{line}");
    }
}

#[test]
fn the_pair_is_in_the_help_with_examples() {
    let help = Cli::command().render_long_help().to_string();
    for verb in ["standby", "witness"] {
        assert!(
            help.contains(&format!("\n  {verb} ")),
            "{verb} is missing in:\n{help}"
        );
    }
    let error = parse("--help").expect_err("help is no command");
    assert_eq!(error.kind(), ErrorKind::DisplayHelp);
    let text = error.to_string();
    for part in [
        "Examples:",
        "promote",
        "handover",
        "discard",
        "accept-witness",
        "verify",
        "secret",
    ] {
        assert!(text.contains(part), "{part} is missing in:\n{text}");
    }
}
