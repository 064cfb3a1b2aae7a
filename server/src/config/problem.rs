//! What is wrong with a configuration, shown with file, line and caret.

use std::{
    fmt,
    ops::Range,
    path::{Path, PathBuf},
};

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

    /// A file that cannot be read.
    pub fn of_file(path: &Path, error: &std::io::Error) -> Self {
        Problem {
            message: format!("cannot read {}: {error}", path.display()),
            span: None,
            fix: None,
        }
    }

    /// The same with advice.
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }
}

/// The files that a configuration was read from, laid end to end: a span says which file and where in it.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    files: Vec<SourceFile>,
}

/// One file of a configuration.
#[derive(Debug, Clone)]
pub struct SourceFile {
    /// As the user named it, or as it was found in conf.d.
    pub path: PathBuf,
    /// Its content; empty when it could not be read.
    pub text: String,
    /// Where it begins in the whole. Bytes.
    pub start: usize,
}

impl Sources {
    /// Adds a file behind the others.
    pub fn add(&mut self, path: impl Into<PathBuf>, text: impl Into<String>) {
        // One byte between files, so that the end of one is not the beginning of the next.
        let end = |file: &SourceFile| file.start + file.text.len() + 1;
        self.files.push(SourceFile {
            path: path.into(),
            text: text.into(),
            start: self.files.last().map_or(0, end),
        });
    }

    /// The files, the main one first.
    pub fn files(&self) -> &[SourceFile] {
        &self.files
    }

    /// The main file.
    pub fn path(&self) -> PathBuf {
        self.files
            .first()
            .map(|file| file.path.clone())
            .unwrap_or_default()
    }

    /// The file that `span` lies in.
    fn file_at(&self, span: &Range<usize>) -> Option<&SourceFile> {
        let mut before = self.files.iter().rev();
        before.find(|file| file.start <= span.start)
    }

    /// The file and its 1-based line, as compilers write them: `room.toml:17`.
    pub fn place(&self, span: &Range<usize>) -> String {
        match self.file_at(span) {
            Some(file) => format!("{}:{}", file.path.display(), file.line(span)),
            None => "nowhere".into(),
        }
    }
}

impl SourceFile {
    fn line(&self, span: &Range<usize>) -> usize {
        let start = (span.start - self.start).min(self.text.len());
        let before = &self.text.as_bytes()[..start];
        before.iter().filter(|byte| **byte == b'\n').count() + 1
    }

    /// `span` within this file.
    fn local(&self, span: &Range<usize>) -> Range<usize> {
        let local = |at: usize| at.saturating_sub(self.start).min(self.text.len());
        local(span.start)..local(span.end)
    }
}

/// A configuration that cannot be used: its text and every problem found in it.
#[derive(Debug)]
pub struct Problems {
    /// What was read.
    pub sources: Sources,
    /// At least one.
    pub list: Vec<Problem>,
}

impl Problems {
    /// The 1-based line of a problem in its file.
    pub fn line(&self, problem: &Problem) -> Option<usize> {
        let span = problem.span.as_ref()?;
        Some(self.sources.file_at(span)?.line(span))
    }

    /// The file that a problem is in; the main one if it concerns the whole.
    pub fn file(&self, problem: &Problem) -> PathBuf {
        let file = problem
            .span
            .as_ref()
            .and_then(|span| self.sources.file_at(span));
        file.map_or_else(|| self.sources.path(), |file| file.path.clone())
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
        let path = self.file(problem).display().to_string();
        let place = problem.span.as_ref();
        let place = place.and_then(|span| Some((self.sources.file_at(span)?, span)));
        let mut groups: Vec<Group<'_>> = Vec::new();
        match place {
            Some((file, span)) => {
                let mark = AnnotationKind::Primary.span(file.local(span));
                let snippet = Snippet::source(&file.text).path(&path).annotation(mark);
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
