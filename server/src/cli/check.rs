//! `bootroom check`: what is wrong with a configuration.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::{Exit, output};
use crate::config::{self, host, problem::Problems};

/// Arguments of `check`.
#[derive(Debug, Args)]
pub struct CheckOptions {
    /// The configuration file
    #[arg(value_name = "FILE", default_value = config::DEFAULT_PATH)]
    file: PathBuf,
    /// Look at the file alone, not at this machine's interfaces, directories and images
    #[arg(long)]
    file_only: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Verdict<'a> {
    file: String,
    ok: bool,
    problems: Vec<Finding<'a>>,
}

#[derive(Serialize)]
struct Finding<'a> {
    file: String,
    line: Option<usize>,
    message: &'a str,
    fix: Option<&'a str>,
}

/// Prints what is wrong; the exit code says whether anything is.
pub fn run(options: &CheckOptions, colour: bool) -> anyhow::Result<Exit> {
    let problems = find(options);
    match (&problems, options.json) {
        (_, true) => output::json(&verdict(options, problems.as_ref()))?,
        (Some(problems), false) => eprintln!("{}", problems.render(colour)),
        (None, false) => say!("{}: the configuration is right", options.file.display()),
    }
    Ok(if problems.is_some() {
        Exit::Config
    } else {
        Exit::Ok
    })
}

fn find(options: &CheckOptions) -> Option<Problems> {
    let config = match config::load(&options.file) {
        Ok(config) => config,
        Err(problems) => return Some(problems),
    };
    let list = if options.file_only {
        Vec::new()
    } else {
        host::check(&config)
    };
    (!list.is_empty()).then(|| config.refuse(list))
}

fn verdict<'a>(options: &CheckOptions, problems: Option<&'a Problems>) -> Verdict<'a> {
    let findings = problems.into_iter().flat_map(|problems| {
        problems.list.iter().map(|problem| Finding {
            file: problems.file(problem).display().to_string(),
            line: problems.line(problem),
            message: &problem.message,
            fix: problem.fix.as_deref(),
        })
    });
    let problems: Vec<_> = findings.collect();
    Verdict {
        file: options.file.display().to_string(),
        ok: problems.is_empty(),
        problems,
    }
}
