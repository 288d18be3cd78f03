# Regressions by level, as nlme's lmList has them: what tests/test_lm_list.py compares lj.lm_list with.
#   Rscript tests/reference/make_lm_list_reference.R      (from the repository root; writes lm_list_reference.json, 2 s)
# sleepstudy is that of reference.json; nlme's Orthodont and R's ChickWeight (levels of 2 to 12 rows) are written along.
# `drop` counts rows from 1. A level of k rows in k columns keeps its coefficients; one in more has nulls.
# Packages: nlme, jsonlite.

invisible(Sys.setlocale("LC_ALL", "C.UTF-8"))
options(contrasts = c("contr.treatment", "contr.poly"))
suppressPackageStartupMessages({library(jsonlite); library(nlme)})
OUT <- "tests/reference/lm_list_reference.json"

s <- fromJSON("tests/reference/reference.json")$datasets$sleepstudy
sleepstudy <- transform(as.data.frame(s$data), Subject = factor(Subject, levels = s$columns$Subject$levels))
plain <- function(data, group) {
  data <- as.data.frame(data)
  data[[group]] <- factor(as.character(data[[group]]), levels = levels(data[[group]]))  # no longer ordered
  data
}
SETS <- list(sleepstudy = sleepstudy, Orthodont = plain(Orthodont, "Subject")[c("distance", "age", "Subject", "Sex")],
  ChickWeight = plain(ChickWeight, "Chick")[c("weight", "Time", "Chick")])

m <- function(dataset, formula, drop = integer(0)) list(dataset = dataset, formula = formula, drop = drop)
MODELS <- list(
  sleepstudy = m("sleepstudy", "Reaction ~ Days | Subject"),
  sleepstudy_unbalanced = m("sleepstudy", "Reaction ~ Days + I(Days^2) | Subject", c(1:5, 33, 90, 171:177)),
  sleepstudy_mean = m("sleepstudy", "Reaction ~ 1 | Subject"),
  orthodont = m("Orthodont", "distance ~ I(age - 11) | Subject"),
  orthodont_origin = m("Orthodont", "log(distance) ~ 0 + age | Subject"),
  orthodont_by_sex = m("Orthodont", "distance ~ age | Sex"),
  chick = m("ChickWeight", "weight ~ Time | Chick"),
  chick_short = m("ChickWeight", "weight ~ Time + I(Time^2) | Chick"))

# nlme's pooled variance subtracts coefficients that are NA as well: only levels with all of them are pooled here.
fitted_model <- function(M) {
  data <- SETS[[M$dataset]]
  if (length(M$drop)) data <- data[-M$drop, ]
  form <- as.formula(M$formula)
  group <- as.character(getGroupsFormula(form)[[2]])
  all <- lmList(form, data)
  whole <- names(which(!apply(is.na(coef(all)), 1, any)))
  some <- data[data[[group]] %in% whole, ]
  some[[group]] <- factor(some[[group]])
  fit <- lmList(form, some)
  each <- function(f) lapply(levels(data[[group]]), function(g) if (g %in% whole) f(fit[[g]]) else NULL)
  numbers <- function(a) lapply(levels(data[[group]]), function(g) if (g %in% whole) as.numeric(a[g, ]) else NULL)
  named <- function(a) matrix(a, nrow(a), dimnames = list(rownames(a)))
  se <- function(pool) named(as.matrix(summary(fit, pool = pool)$coefficients[, "Std. Error", ]))
  ends <- function(which) {
    if (ncol(coef(fit)) == 1) return(NULL)  # which intervals refuses
    numbers(named(intervals(fit, level = 0.9)[, which, ]))
  }
  out <- c(M, list(levels = levels(data[[group]]), coef = each(function(f) as.numeric(coef(f))),
    sigma = each(function(f) if (f$df.residual) summary(f)$sigma else NA), df = each(function(f) f$df.residual),
    pooled_sd = as.numeric(pooledSD(fit)), pooled_df = attr(pooledSD(fit), "df"), 
    pooled = list(se = numbers(se(TRUE)), lower = ends("lower"), upper = ends("upper"))))
  if (all(sapply(fit, function(f) f$df.residual) > 0)) {  # nlme's intervals fail without pooling: those of lm
    limits <- function(j) each(function(f) as.numeric(confint(f, level = 0.9)[, j]))
    out$single <- list(se = numbers(se(FALSE)), lower = limits(1), upper = limits(2))
  }
  out$drop <- as.list(M$drop)
  out
}

described <- function(data) {
  one <- function(v) if (is.numeric(v)) list(type = "numeric") else list(type = "factor", levels = levels(v))
  list(columns = lapply(data, one), data = lapply(data, function(v) if (is.numeric(v)) v else as.character(v)))
}

result <- list(meta = list(R = R.version.string, nlme = as.character(packageVersion("nlme"))),
  datasets = lapply(SETS[-1], described), models = lapply(MODELS, fitted_model))
write_json(result, OUT, digits = 15, auto_unbox = TRUE, na = "null", null = "null", pretty = FALSE)
