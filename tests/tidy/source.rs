//! Sources as tokens, in which comments and texts of strings cannot be taken for code.

use std::fs;
use std::path::Path;
use std::process::Command;

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};

/// The directory of the project.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files of the project, by path from its directory: what git tracks, or would.
pub(crate) fn tracked_files() -> Vec<String> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .expect("git, to know the files of the project");
    assert!(output.status.success(), "git ls-files failed: {}", String::from_utf8_lossy(&output.stderr));
    let list = String::from_utf8(output.stdout).expect("paths in UTF-8");
    let files: Vec<String> = list.lines().filter(|path| root().join(path).is_file()).map(str::to_owned).collect();
    assert!(files.len() > 50, "git lists only {} files", files.len());
    files
}

pub(crate) fn is_rust(path: &str) -> bool {
    Path::new(path).extension().is_some_and(|extension| extension == "rs")
}

/// The words of a text that stand in back quotes.
pub(crate) fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.lines().flat_map(|line| line.split('`').skip(1).step_by(2))
}

/// The dependencies that no comment above them explains; a comment holds until the next empty line.
pub(crate) fn unexplained_dependencies(manifest: &str) -> Vec<String> {
    let mut unexplained = Vec::new();
    let (mut among_dependencies, mut explained) = (false, false);
    for line in manifest.lines() {
        if line.starts_with('[') {
            among_dependencies = line.ends_with("dependencies]");
            explained = false;
        } else if line.starts_with('#') {
            explained = true;
        } else if line.is_empty() {
            explained = false;
        } else if among_dependencies && !explained && line.starts_with(|c: char| c.is_alphabetic()) {
            unexplained.push(line.to_owned());
        }
    }
    unexplained
}

/// One file.
pub(crate) struct Source {
    /// The path from the directory of the project.
    pub(crate) path: String,
    pub(crate) text: String,
    tokens: Vec<Token>,
}

/// A token, and where it stands.
pub(crate) struct Token {
    pub(crate) tree: TokenTree,
    /// How many groups it is in.
    pub(crate) depth: usize,
    /// How many modules of this file it is in.
    pub(crate) inner_modules: usize,
    /// Whether it stands under `#[cfg(test)]` or in a test.
    pub(crate) in_test: bool,
}

impl Token {
    /// Whether it is this word or this sign.
    fn is(&self, text: &str) -> bool {
        match &self.tree {
            TokenTree::Ident(word) => word == text,
            TokenTree::Punct(sign) => text.len() == 1 && text.starts_with(sign.as_char()),
            TokenTree::Group(_) | TokenTree::Literal(_) => false,
        }
    }

    pub(crate) fn line(&self) -> usize {
        self.tree.span().start().line
    }
}

/// A function with a body.
pub(crate) struct Function {
    pub(crate) name: String,
    /// From `fn` to the closing brace.
    pub(crate) lines: usize,
    pub(crate) in_test: bool,
}

impl Source {
    pub(crate) fn read(path: String) -> Self {
        let text = fs::read_to_string(root().join(&path)).expect("a source in UTF-8");
        Self::new(path, text)
    }

    pub(crate) fn new(path: String, text: String) -> Self {
        let stream: TokenStream = text.parse().unwrap_or_else(|error| panic!("{path} is not Rust: {error}"));
        let mut tokens = Vec::new();
        // A file of tests is declared under #[cfg(test)] in the file above it.
        let in_test = path.ends_with("/tests.rs");
        flatten(stream, Place { depth: 0, inner_modules: 0, in_test }, &mut tokens);
        Self { path, text, tokens }
    }

    pub(crate) fn tokens(&self) -> &[Token] {
        &self.tokens
    }

    pub(crate) fn functions(&self) -> impl Iterator<Item = Function> {
        self.tokens.windows(2).enumerate().filter_map(|(index, pair)| {
            let ([keyword, Token { tree: TokenTree::Ident(name), .. }], true) = (pair, pair[0].is("fn")) else {
                return None;
            };
            // A declaration without a body ends with a semicolon.
            let mut rest = self.tokens[index..].iter().filter(|token| token.depth == keyword.depth);
            let body = rest.find_map(|token| match &token.tree {
                TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => Some(Some(group)),
                TokenTree::Punct(sign) if sign.as_char() == ';' => Some(None),
                _ => None,
            });
            let end = body??.span_close().end().line;
            Some(Function { name: name.to_string(), lines: end + 1 - keyword.line(), in_test: keyword.in_test })
        })
    }

    /// The lines outside of tests on which `.method(` is called.
    pub(crate) fn method_calls(&self, method: &str) -> impl Iterator<Item = usize> {
        self.tokens.windows(3).filter_map(move |three| {
            let called =
                matches!(&three[2].tree, TokenTree::Group(group) if group.delimiter() == Delimiter::Parenthesis);
            (three[0].is(".") && three[1].is(method) && called && !three[1].in_test).then(|| three[1].line())
        })
    }

    /// The lines outside of tests on which a lint of clippy is spoken of: nothing but an attribute does that.
    pub(crate) fn allows(&self, lint: &str) -> impl Iterator<Item = usize> {
        self.tokens.windows(4).filter_map(move |four| {
            let named = four[0].is("clippy") && four[1].is(":") && four[2].is(":") && four[3].is(lint);
            (named && !four[0].in_test).then(|| four[0].line())
        })
    }

    /// Whether this path is written out outside of tests.
    pub(crate) fn mentions(&self, path: &[&str]) -> bool {
        let mut words = vec![path[0]];
        words.extend(path[1..].iter().flat_map(|word| [":", ":", word]));
        self.tokens
            .windows(words.len())
            .any(|tokens| !tokens[0].in_test && tokens.iter().zip(&words).all(|(token, word)| token.is(word)))
    }
}

/// Where a token stands.
#[derive(Clone, Copy)]
struct Place {
    depth: usize,
    inner_modules: usize,
    in_test: bool,
}

/// Lays out the tokens in the order in which they are written, groups before what is in them.
fn flatten(stream: TokenStream, place: Place, into: &mut Vec<Token>) {
    let Place { depth, inner_modules, in_test } = place;
    let (mut item_is_test, mut item_is_module, mut after_hash) = (false, false, false);
    for tree in stream {
        let is_sign = |sign| matches!(&tree, TokenTree::Punct(punct) if punct.as_char() == sign);
        let group = if let TokenTree::Group(group) = &tree { Some(group.clone()) } else { None };
        let delimiter = group.as_ref().map(Group::delimiter);
        item_is_test |= after_hash && group.as_ref().is_some_and(is_test);
        item_is_module |= matches!(&tree, TokenTree::Ident(word) if word == "mod");
        after_hash = is_sign('#');
        let ends_item = is_sign(';') || delimiter == Some(Delimiter::Brace);
        let in_test = in_test || item_is_test;
        into.push(Token { tree, depth, inner_modules, in_test });
        if let Some(group) = group {
            let module = item_is_module && delimiter == Some(Delimiter::Brace);
            let inner = Place { depth: depth + 1, inner_modules: inner_modules + usize::from(module), in_test };
            flatten(group.stream(), inner, into);
        }
        if ends_item {
            (item_is_test, item_is_module) = (false, false);
        }
    }
}

/// Whether an attribute makes a test of its item: `test`, `cfg(test)`, `tokio::test`.
fn is_test(attribute: &Group) -> bool {
    let text: String = attribute.stream().to_string().split_whitespace().collect();
    text == "test" || text == "cfg(test)" || text.starts_with("tokio::test")
}

#[test]
fn tokens_tell_tests_from_the_program() {
    let text = r#"
        //! .unwrap() in a comment
        use std::process;
        fn short(x: [u8; 3]) { process::exit(1); let _ = "x.unwrap()"; x.first().unwrap(); }
        #[cfg(test)]
        mod tests { use super::*; #[test] fn long() {
            1.expect("");
        } }
        trait Known { fn without_body(&self); }
        #[cfg(test)]
        mod more;
        fn after() { y.expect("") }
    "#;
    let source = Source::new("src/x.rs".to_owned(), text.to_owned());
    let functions: Vec<_> =
        source.functions().map(|function| (function.name, function.lines, function.in_test)).collect();
    let expected = [("short", 1, false), ("long", 3, true), ("after", 1, false)];
    assert_eq!(functions, expected.map(|(name, lines, in_test)| (name.to_owned(), lines, in_test)));
    assert_eq!(source.method_calls("unwrap").collect::<Vec<_>>(), [4]);
    assert_eq!(source.method_calls("expect").collect::<Vec<_>>(), [12]);
    assert!(source.mentions(&["process", "exit"]) && !source.mentions(&["process", "abort"]));
}
