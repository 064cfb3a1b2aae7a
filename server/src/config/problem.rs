//! What is wrong with a configuration, shown with file, line and caret.

use std::{fmt, ops::Range, path::PathBuf};

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use serde::Serialize;

/// One mistake: what it is, where it stands, how to mend it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// One line that names the thing.
    pub message: String,
    /// Bytes of the file it concerns; none when it concerns the file as a whole.
    #[serde(skip)]
    pub span: Option<Range<usize>>,
    /// What to do about it.
    pub fix: Option<String>,
}

impl Problem {
    /// A mistake at `span`.
    pub fn at(span: Range<usize>, message: impl Into<String>) -> Self {
        Problem {
            message: message.into(),
            span: Some(span),
            fix: None,
        }
    }

    /// The same with advice.
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }
}

/// A configuration that cannot be used: the text and every problem found in it.
#[derive(Debug)]
pub struct Problems {
    /// The file, as the user named it.
    pub path: PathBuf,
    /// Its content; empty when it could not be read.
    pub source: String,
    /// At least one.
    pub list: Vec<Problem>,
}

impl Problems {
    /// The 1-based line of a problem.
    pub fn line(&self, problem: &Problem) -> Option<usize> {
        let start = problem.span.as_ref()?.start.min(self.source.len());
        Some(
            self.source.as_bytes()[..start]
                .iter()
                .filter(|byte| **byte == b'\n')
                .count()
                + 1,
        )
    }

    /// Every problem as text; `colour` for a terminal that wants it.
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour {
            Renderer::styled()
        } else {
            Renderer::plain()
        };
        let shown: Vec<_> = self
            .list
            .iter()
            .map(|problem| self.show(&renderer, problem))
            .collect();
        shown.join("\n")
    }

    fn show(&self, renderer: &Renderer, problem: &Problem) -> String {
        let path = self.path.display().to_string();
        let mut groups: Vec<Group<'_>> = Vec::new();
        match &problem.span {
            Some(span) => {
                let mark = AnnotationKind::Primary.span(span.clone());
                let snippet = Snippet::source(&self.source).path(&path).annotation(mark);
                groups.push(
                    Level::ERROR
                        .primary_title(&problem.message)
                        .element(snippet),
                );
            }
            None => {
                let title = Level::ERROR.primary_title(&problem.message);
                groups.push(Group::with_title(title));
            }
        }
        if let Some(fix) = &problem.fix {
            groups.push(Group::with_title(Level::HELP.secondary_title(fix)));
        }
        renderer.render(&groups)
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Problems {}
