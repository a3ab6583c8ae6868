//! Types and names of a condition, found out at load by walking its expression.
//!
//! Replaces every word (`request.tools`, `models["m"].ready`, the pattern of a `matches`) by a
//! numbered identifier, so that evaluation looks nothing up by name. Promises: what passes cannot
//! meet an unknown name or a wrong type. Called by `condition` only.

use cel::common::ast::{CallExpr, Expr, ListExpr, LiteralValue, SelectExpr, SourceInfo, operators};
use cel::parser::Expression;

use super::condition::Flaw;
use super::form::suggest;
use super::pattern::Pattern;
use super::vocabulary::{ModelFact, Signal, Type, Vocabulary, Word};

/// How deep an expression may nest, so that evaluating it fits any thread's stack.
const DEEPEST: usize = 32;
const ROOTS: [&str; 3] = ["request", "models", "budget"];
const METHODS: [&str; 5] = ["contains", "startsWith", "endsWith", "matches", "size"];
const FUNCTIONS: [&str; 4] = ["size", "int", "double", "string"];

/// Walks one expression.
pub(super) struct Checker<'c, 'n> {
    vocabulary: &'c Vocabulary<'n>,
    text: &'c str,
    info: &'c SourceInfo,
    words: Vec<Word>,
    flaws: Vec<Flaw>,
    depth: usize,
}

impl<'c, 'n> Checker<'c, 'n> {
    pub(super) fn new(vocabulary: &'c Vocabulary<'n>, text: &'c str, info: &'c SourceInfo) -> Self {
        Checker { vocabulary, text, info, words: Vec::new(), flaws: Vec::new(), depth: 0 }
    }

    /// The words that the expression names now, or its flaws.
    pub(super) fn finish(self) -> Result<Vec<Word>, Vec<Flaw>> {
        if self.flaws.is_empty() { Ok(self.words) } else { Err(self.flaws) }
    }

    /// Notes a flaw that stands where the expression does.
    pub(super) fn flaw(&mut self, at: &Expression, message: impl Into<String>) {
        let start = self.info.offset_for(at.id).map_or(0, |(start, _)| start as usize);
        let line = self.text.chars().take(start).filter(|c| *c == '\n').count();
        self.flaws.push(Flaw { line, message: message.into() });
    }

    /// The expression's type; `None` when a flaw was noted inside it.
    pub(super) fn check(&mut self, at: &mut Expression) -> Option<Type> {
        if self.depth == DEEPEST {
            return self.refuse(at, "nested too deep; split it into several rules");
        }
        self.depth += 1;
        let found = self.find_type(at);
        self.depth -= 1;
        found
    }

    fn find_type(&mut self, at: &mut Expression) -> Option<Type> {
        match &at.expr {
            Expr::Literal(literal) => match literal {
                LiteralValue::Boolean(_) => Some(Type::Bool),
                LiteralValue::Int(_) => Some(Type::Int),
                LiteralValue::UInt(_) => Some(Type::Uint),
                LiteralValue::Double(_) => Some(Type::Double),
                LiteralValue::String(_) => Some(Type::Text),
                LiteralValue::Bytes(_) | LiteralValue::Null => {
                    self.refuse(at, "bytes and null have no use in a condition")
                }
            },
            Expr::Ident(_) | Expr::Select(_) => self.word(at),
            Expr::Call(call) if call.func_name == operators::INDEX => self.word(at),
            Expr::Call(call) if call.target.is_some() => self.method(at),
            Expr::Call(call) if is_operator(&call.func_name) => self.operator(at),
            Expr::Call(_) => self.function(at),
            Expr::List(_) => self.list(at),
            _ => self.refuse(at, "loops, maps and structs are not allowed in a condition"),
        }
    }

    fn refuse(&mut self, at: &Expression, message: impl Into<String>) -> Option<Type> {
        self.flaw(at, message);
        None
    }

    fn word(&mut self, at: &mut Expression) -> Option<Type> {
        match self.find_word(at) {
            Ok((word, found)) => {
                at.expr = Expr::Ident(self.words.len().to_string());
                self.words.push(word);
                Some(found)
            }
            Err(message) => self.refuse(at, message),
        }
    }

    /// The word that a path of names spells.
    fn find_word(&self, at: &Expression) -> Result<(Word, Type), String> {
        match &at.expr {
            Expr::Ident(name) if ROOTS.contains(&name.as_str()) => {
                Err(format!("\"{name}\" alone is no value: name one of its fields"))
            }
            Expr::Ident(name) => Err(format!("unknown name \"{name}\"{}", suggest(name, ROOTS.into_iter()))),
            Expr::Select(select) if select.test => {
                Err("has(…) is not needed: every signal and fact is always there".into())
            }
            Expr::Select(select) => self.find_field(select),
            Expr::Call(call) => self.find_header(call),
            _ => Err("not a signal or fact".into()),
        }
    }

    fn find_field(&self, select: &SelectExpr) -> Result<(Word, Type), String> {
        let field = select.field.as_str();
        match &select.operand.expr {
            Expr::Ident(root) if root == "request" => self.find_signal(field),
            Expr::Ident(root) if root == "budget" && field == "left_usd" => Ok((Word::BudgetLeft, Type::Double)),
            Expr::Ident(root) if root == "budget" => {
                let hint = suggest(field, ["left_usd"].into_iter());
                Err(format!("unknown fact \"budget.{field}\"{hint}"))
            }
            Expr::Ident(root) if root == "models" => {
                Err(format!("write models[\"{field}\"].ready: a model's name is quoted"))
            }
            Expr::Call(call) if call.func_name == operators::INDEX => self.find_fact(call, field),
            Expr::Ident(_) | Expr::Select(_) => match self.find_word(&select.operand) {
                Err(message) => Err(message),
                Ok(_) => Err(no_fields(field)),
            },
            _ => Err(no_fields(field)),
        }
    }

    fn find_signal(&self, field: &str) -> Result<(Word, Type), String> {
        if field == "headers" {
            return Err("\"request.headers\" alone is no value: write request.headers[\"x-…\"]".into());
        }
        if field == "secrets" {
            return Ok((Word::Secrets(self.vocabulary.detectors()?), Type::Int));
        }
        match Signal::ALL.into_iter().find(|signal| signal.name() == field) {
            Some(signal) => Ok((Word::Signal(signal), signal.of())),
            None => {
                let known = Signal::ALL.into_iter().map(Signal::name).chain(["headers", "secrets"]);
                Err(format!("unknown signal \"request.{field}\"{}", suggest(field, known)))
            }
        }
    }

    fn find_fact(&self, index: &CallExpr, field: &str) -> Result<(Word, Type), String> {
        let [operand, name] = index.args.as_slice() else {
            return Err("not an index".into());
        };
        if !matches!(&operand.expr, Expr::Ident(root) if root == "models") {
            return Err(no_fields(field));
        }
        let Some(name) = literal_text(name) else {
            return Err("the model's name in models[\"…\"] must be written out".into());
        };
        let Some(model) = self.vocabulary.names.resolve(name) else {
            return Err(self.vocabulary.unknown_model(name));
        };
        match ModelFact::ALL.into_iter().find(|fact| fact.name() == field) {
            Some(fact) => Ok((Word::Model(model, fact), fact.of())),
            None => {
                let hint = suggest(field, ModelFact::ALL.into_iter().map(ModelFact::name));
                Err(format!("unknown fact \"models[\\\"{name}\\\"].{field}\"{hint}"))
            }
        }
    }

    fn find_header(&self, index: &CallExpr) -> Result<(Word, Type), String> {
        let [operand, name] = index.args.as_slice() else {
            return Err("not an index".into());
        };
        match &operand.expr {
            Expr::Ident(root) if root == "models" => {
                return Err("models[\"…\"] alone is no value: name one of its facts".into());
            }
            Expr::Select(select)
                if select.field == "headers"
                    && matches!(&select.operand.expr, Expr::Ident(root) if root == "request") => {}
            _ => return Err("only request.headers and models are indexed".into()),
        }
        let Some(name) = literal_text(name).map(str::to_ascii_lowercase) else {
            return Err("the header's name in request.headers[\"…\"] must be written out".into());
        };
        let named = &self.vocabulary.names.headers;
        if !named.contains(&name) && !self.vocabulary.names.any {
            let hint = suggest(&name, named.iter().map(String::as_str));
            return Err(format!("header \"{name}\" is not named in the configuration{hint}"));
        }
        Ok((Word::Header(name), Type::Text))
    }

    fn operator(&mut self, at: &mut Expression) -> Option<Type> {
        let Expr::Call(call) = &mut at.expr else {
            return None;
        };
        let found: Vec<Option<Type>> = call.args.iter_mut().map(|arg| self.check(arg)).collect();
        let name = call.func_name.clone();
        let found: Vec<Type> = found.into_iter().collect::<Option<_>>()?;
        let result = operator_type(&name, &found);
        if result.is_none() {
            let types: Vec<String> = found.iter().map(Type::name).collect();
            let sign = name.trim_matches(['_', '@']).replace("_:", ":");
            self.flaw(at, format!("\"{sign}\" does not take {}", types.join(" and ")));
        }
        result
    }

    fn list(&mut self, at: &mut Expression) -> Option<Type> {
        let Expr::List(ListExpr { elements, .. }) = &mut at.expr else {
            return None;
        };
        let found: Vec<Option<Type>> = elements.iter_mut().map(|each| self.check(each)).collect();
        let found: Vec<Type> = found.into_iter().collect::<Option<_>>()?;
        match found.split_first() {
            None => self.refuse(at, "an empty list contains nothing"),
            Some((first, rest)) if rest.iter().all(|each| first.compares_with(each)) => {
                Some(Type::List(Box::new(first.clone())))
            }
            Some(_) => self.refuse(at, "a list's elements must be of one type"),
        }
    }

    fn method(&mut self, at: &mut Expression) -> Option<Type> {
        let Expr::Call(call) = &mut at.expr else {
            return None;
        };
        let name = call.func_name.clone();
        if !METHODS.contains(&name.as_str()) {
            let hint = suggest(&name, METHODS.into_iter());
            return self.refuse(at, format!("unknown function \".{name}(…)\"{hint}"));
        }
        let target = call.target.as_mut().and_then(|target| self.check(target));
        let arguments: Vec<Option<Type>> = call.args.iter_mut().map(|argument| self.check(argument)).collect();
        let arguments: Vec<Type> = arguments.into_iter().collect::<Option<_>>()?;
        match (name.as_str(), target?, arguments.as_slice()) {
            ("size", Type::Text | Type::List(_), []) => Some(Type::Int),
            ("contains" | "startsWith" | "endsWith", Type::Text, [Type::Text]) => Some(Type::Bool),
            ("matches", Type::Text, [Type::Text]) => self.pattern(at),
            _ => self.refuse(at, format!("\".{name}(…)\" does not take these types or this many")),
        }
    }

    /// Replaces the literal of a `matches` by its compiled form.
    fn pattern(&mut self, at: &mut Expression) -> Option<Type> {
        let Expr::Call(call) = &mut at.expr else {
            return None;
        };
        let argument = call.args.first_mut()?;
        let Some(text) = literal_text(argument) else {
            return self.refuse(at, "the pattern of matches(\"…\") must be written out");
        };
        match Pattern::parse(text) {
            Ok(pattern) => {
                argument.expr = Expr::Ident(self.words.len().to_string());
                self.words.push(Word::Pattern(pattern));
                Some(Type::Bool)
            }
            Err(error) => {
                let reason = error.to_string();
                let reason = reason.lines().last().unwrap_or_default().trim_start_matches("error: ");
                let message = format!("\"{text}\" is not a regular expression: {reason}");
                self.refuse(at, message)
            }
        }
    }

    fn function(&mut self, at: &mut Expression) -> Option<Type> {
        let Expr::Call(call) = &mut at.expr else {
            return None;
        };
        let name = call.func_name.clone();
        if !FUNCTIONS.contains(&name.as_str()) {
            let hint = suggest(&name, FUNCTIONS.into_iter().chain(METHODS));
            return self.refuse(at, format!("unknown function \"{name}(…)\"{hint}"));
        }
        let found: Vec<Option<Type>> = call.args.iter_mut().map(|arg| self.check(arg)).collect();
        let found: Vec<Type> = found.into_iter().collect::<Option<_>>()?;
        match (name.as_str(), found.as_slice()) {
            ("size", [Type::Text | Type::List(_)]) => Some(Type::Int),
            ("int", [number]) if number.is_number() => Some(Type::Int),
            ("double", [number]) if number.is_number() => Some(Type::Double),
            ("string", [Type::Text | Type::Int | Type::Uint | Type::Double | Type::Bool]) => Some(Type::Text),
            _ => self.refuse(at, format!("\"{name}(…)\" does not take these types or this many")),
        }
    }
}

/// The result's type of an operator; `None` when it does not take operands of these types.
fn operator_type(name: &str, operands: &[Type]) -> Option<Type> {
    use Type::{Bool, Double, Int, List, Text, Uint};
    match (name, operands) {
        (operators::LOGICAL_AND | operators::LOGICAL_OR, [Bool, Bool]) => Some(Bool),
        (operators::LOGICAL_NOT, [Bool]) => Some(Bool),
        (operators::NEGATE, [number @ (Int | Double)]) => Some(number.clone()),
        (operators::EQUALS | operators::NOT_EQUALS, [left, right]) => left.compares_with(right).then_some(Bool),
        (operators::LESS | operators::LESS_EQUALS | operators::GREATER | operators::GREATER_EQUALS, [left, right]) => {
            let ordered = left.is_number() || *left == Text;
            (ordered && left.compares_with(right)).then_some(Bool)
        }
        (operators::ADD, [Text, Text]) => Some(Text),
        (operators::ADD | operators::SUBSTRACT | operators::MULTIPLY | operators::DIVIDE, [left, right]) => {
            (left.is_number() && left == right).then(|| left.clone())
        }
        (operators::MODULO, [left @ (Int | Uint), right]) => (left == right).then(|| left.clone()),
        (operators::IN, [element, List(of)]) => element.compares_with(of).then_some(Bool),
        (operators::CONDITIONAL, [Bool, left, right]) => (left == right).then(|| left.clone()),
        _ => None,
    }
}

fn no_fields(field: &str) -> String {
    format!("\".{field}\": only request, budget and models[\"…\"] have fields")
}

fn is_operator(name: &str) -> bool {
    name.starts_with(['_', '!', '-', '@'])
}

fn literal_text(expression: &Expression) -> Option<&str> {
    match &expression.expr {
        Expr::Literal(LiteralValue::String(text)) => Some(text.inner()),
        _ => None,
    }
}
