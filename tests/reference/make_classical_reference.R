# R's aov, its summaries and model.tables: what tests/test_classical.py compares lj.aov and lj.model_tables with.
#   Rscript tests/reference/make_classical_reference.R      (from the repository root; writes classical_reference.json, 1 s)
# Takes the data sets of reference.json, and from R's own `datasets` npk, warpbreaks, sleep and OrchardSprays, which are
# written along. `drop` counts rows from 1. Packages: stats, jsonlite.

invisible(Sys.setlocale("LC_ALL", "C.UTF-8"))
options(contrasts = c("contr.treatment", "contr.poly"), width = 80)
suppressPackageStartupMessages(library(jsonlite))
SETS <- fromJSON("tests/reference/reference.json")$datasets
OUT <- "tests/reference/classical_reference.json"

frame_of <- function(name) {
  described <- SETS[[name]]
  column <- function(v, kind) if (kind$type == "numeric") as.numeric(v) else factor(v, levels = kind$levels, ordered = kind$type == "ordered")
  as.data.frame(Map(column, described$data[names(described$columns)], described$columns))
}
sprays <- transform(OrchardSprays, rowpos = factor(rowpos), colpos = factor(colpos))
OWN <- list(npk = npk, warpbreaks = warpbreaks, sleep = sleep, OrchardSprays = sprays)

# tables : whether the design is balanced, so that model.tables means something
m <- function(dataset, formula, tables = FALSE, drop = integer(0)) list(dataset = dataset, formula = formula, tables = tables, drop = drop)
MODELS <- list(
  pulp = m("pulp", "bright ~ operator", TRUE),
  dyestuff = m("Dyestuff", "Yield ~ Batch", TRUE),
  oneway_unbalanced = m("Dyestuff", "Yield ~ Batch", TRUE, c(2, 7, 8, 9, 30)),
  warpbreaks = m("warpbreaks", "breaks ~ wool * tension", TRUE),
  warpbreaks_unbalanced = m("warpbreaks", "breaks ~ wool * tension", FALSE, c(1, 2, 20, 38)),
  warpbreaks_cells = m("warpbreaks", "breaks ~ 0 + wool:tension"),
  npk_blocks = m("npk", "yield ~ block + N * P * K"),
  npk = m("npk", "yield ~ N * P * K + Error(block)", TRUE),
  npk_unbalanced = m("npk", "yield ~ N * P * K + Error(block)", FALSE, c(5, 14)),
  sleep = m("sleep", "extra ~ group + Error(ID)", TRUE),
  sleep_saturated = m("sleep", "extra ~ group + Error(ID / group)", TRUE),
  sleep_unbalanced = m("sleep", "extra ~ group + Error(ID)", FALSE, 1:2),
  latin_square = m("OrchardSprays", "decrease ~ treatment + Error(rowpos + colpos)", TRUE),
  irrigation = m("irrigation", "yield ~ irrigation * variety + Error(field)", TRUE),
  irrigation_all = m("irrigation", "yield ~ irrigation * variety + Error(irrigation / field)"),
  irrigation_null = m("irrigation", "yield ~ 1 + Error(field)"),
  penicillin = m("Penicillin", "diameter ~ sample + Error(plate)", TRUE),
  pastes = m("Pastes", "strength ~ 1 + Error(batch / cask)"),
  eggs = m("eggs", "Fat ~ 1 + Error(Lab / Technician / Sample)"),
  sleepstudy = m("sleepstudy", "Reaction ~ Days + Error(Subject)"),
  cake = m("cake", "angle ~ recipe * temperature + Error(replicate / recipe)", TRUE),
  cake_slope = m("cake", "angle ~ recipe * temp + Error(replicate / recipe)"))

# ---- one model ---------------------------------------------------------------------------------------------------------

column <- function(table, name) if (is.null(table[[name]])) rep(NA_real_, nrow(table)) else table[[name]]

stratum <- function(summary) {
  t <- as.data.frame(summary[[1]])
  list(terms = trimws(rownames(t)), df = t$Df, sumsq = t$`Sum Sq`, meansq = t$`Mean Sq`, F = column(t, "F value"), p = column(t, "Pr(>F)"))
}

# cells in the order of the levels, the first factor slowest
tables <- function(fit, kind) {
  mt <- suppressWarnings(model.tables(fit, kind, se = kind == "effects" && !is.list(replications(delete.response(terms(fit)), model.frame(fit)))))
  flat <- function(t) {
    if (is.matrix(t) && identical(rownames(t)[2], "rep")) t <- t[1, ]  # unbalanced: a row of values and one of counts
    as.numeric(if (length(dim(t)) > 1) aperm(t) else t)
  }
  found <- mt$tables[names(mt$tables) != "Grand mean"]
  list(grand_mean = if (kind == "means") as.numeric(mt$tables$`Grand mean`)[1], cells = lapply(found, flat), se = lapply(mt$se, as.numeric))
}

fitted_model <- function(M) {
  data <- if (M$dataset %in% names(OWN)) OWN[[M$dataset]] else frame_of(M$dataset)
  if (length(M$drop)) data <- data[-M$drop, ]
  fit <- eval(bquote(aov(.(as.formula(M$formula)), data = data)))
  s <- summary(fit)
  strata <- if (inherits(fit, "aovlist")) lapply(s, stratum) else list(Within = stratum(s))
  names(strata) <- sub("^Error: ", "", names(strata))
  out <- c(M, list(strata = strata, printed = capture.output(print(s))))
  out$drop <- as.list(M$drop)
  if (M$tables) {
    out$effects <- tables(fit, "effects")
    if (!length(M$drop)) out$means <- tables(fit, "means")
  }
  out
}

described <- function(data) {
  one <- function(v) if (is.numeric(v)) list(type = "numeric") else list(type = "factor", levels = levels(v))
  list(columns = lapply(data, one), data = lapply(data, function(v) if (is.numeric(v)) v else as.character(v)))
}

result <- list(meta = list(R = R.version.string), datasets = lapply(OWN, described), models = lapply(MODELS, fitted_model))
write_json(result, OUT, digits = 15, auto_unbox = TRUE, na = "null", null = "null", pretty = FALSE)
