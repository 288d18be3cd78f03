# Estimated marginal means and contrasts, computed by emmeans.
#   Rscript tests/reference/make_means_reference.R      (from the repository root; writes means_reference.json)
# Reads the data sets of reference.json. Packages: emmeans, lme4, lmerTest, pbkrtest, jsonlite.

suppressPackageStartupMessages({ library(lmerTest); library(emmeans); library(jsonlite) })
options(contrasts = c("contr.treatment", "contr.poly"))
OUT <- "tests/reference/means_reference.json"
SETS <- fromJSON("tests/reference/reference.json")$datasets
tight <- lmerControl("bobyqa", optCtrl = list(rhobeg = 0.1, rhoend = 1e-10, maxfun = 1e5), calc.derivs = FALSE,
                     check.rankX = "silent.drop.cols")

set <- function(name) {
  described <- SETS[[name]]
  column <- function(v, kind) if (kind$type == "numeric") as.numeric(v) else factor(v, levels = kind$levels, ordered = kind$type == "ordered")
  as.data.frame(Map(column, described$data[names(described$columns)], described$columns))
}
cake <- set("cake"); irrigation <- set("irrigation"); sleep <- set("sleepstudy")
uneven <- irrigation[-c(1, 6, 11), ]                                     # no cell is empty
hole <- subset(irrigation, !(irrigation == "i4" & variety == "v2"))      # one is
sleep$w <- rep(c(1, 2, 0.5), 60)
sleep$late <- as.numeric(sleep$Days > 6)

fit <- function(formula, data, ...) do.call(lmer, list(as.formula(formula), data = data, control = tight, ...))
table_of <- function(x, ...) {
  d <- as.data.frame(summary(x, infer = c(TRUE, TRUE), ...))
  names(d) <- sub("^(emmean|response)$", "estimate", names(d))
  ours <- c(SE = "se", lower.CL = "lower", upper.CL = "upper", asymp.LCL = "lower", asymp.UCL = "upper", t.ratio = "t",
            z.ratio = "t", p.value = "p")
  names(d) <- ifelse(names(d) %in% names(ours), ours[names(d)], names(d))
  d
}
means <- function(...) list(table = table_of(emmeans(...)))
with_pairs <- function(m, specs, adjust = c("tukey", "holm"), ...) {
  e <- emmeans(m, as.formula(specs), ...)
  c(list(table = table_of(e)), list(pairs = sapply(adjust, function(a) table_of(pairs(e), adjust = a), simplify = FALSE)))
}

add <- fit("yield ~ irrigation + variety + (1 | field)", irrigation)
full <- fit("yield ~ irrigation * variety + (1 | field)", irrigation)
un <- fit("yield ~ irrigation * variety + (1 | field)", uneven)
empty <- fit("yield ~ irrigation * variety + (1 | field)", hole)
cake_factor <- fit("angle ~ recipe * temperature + (1 | recipe:replicate)", cake)
cake_line <- fit("angle ~ recipe * temp + (1 | recipe:replicate)", cake)
curve <- fit("log(Reaction) ~ Days + I(Days^2) + (Days | Subject)", sleep)
shifted <- fit("Reaction ~ Days + offset(0.5 * Days^2) + (Days | Subject)", sleep)
weighted <- fit("Reaction ~ Days + (1 | Subject)", sleep, weights = sleep$w)
binary <- fit("Reaction ~ late + (1 | Subject)", sleep)
line <- lm(yield ~ irrigation + variety, irrigation)
e <- emmeans(add, "irrigation", lmer.df = "kenward-roger")
s <- "satterthwaite"

cases <- list(
  irrigation = with_pairs(add, "~ irrigation", c("tukey", "holm", "bonferroni", "sidak", "none", "fdr")),
  irrigation_satterthwaite = with_pairs(add, "~ irrigation", lmer.df = s),
  irrigation_both = with_pairs(full, "~ irrigation * variety"),
  irrigation_by = with_pairs(full, "~ irrigation | variety"),
  irrigation_lm = with_pairs(line, "~ irrigation"),
  irrigation_asymptotic = with_pairs(add, "~ irrigation", lmer.df = "asymptotic"),
  grand = means(add, ~ 1),
  level_90 = with_pairs(add, "~ irrigation", "tukey", level = 0.9),
  uneven_equal = with_pairs(un, "~ variety"),
  uneven_proportional = with_pairs(un, "~ variety", weights = "proportional"),
  uneven_cells = with_pairs(un, "~ irrigation", weights = "cells"),
  hole = with_pairs(empty, "~ irrigation", "none"),     # beside an NA emmeans 1.8.4 rounds Tukey's df to 4, and counts it for intervals only
  cake_by = with_pairs(cake_factor, "~ recipe | temperature"),
  cake_recipe = with_pairs(cake_factor, "~ recipe"),
  cake_mean = with_pairs(cake_line, "~ recipe"),
  cake_at = with_pairs(cake_line, "~ recipe | temp", at = list(temp = c(180, 210))),
  curve = means(curve, ~ Days),
  curve_at = with_pairs(curve, "~ Days", at = list(Days = c(0, 4, 9)), lmer.df = s),
  shifted = with_pairs(shifted, "~ Days", at = list(Days = c(1, 5))),
  weighted = with_pairs(weighted, "~ Days", at = list(Days = c(1, 5)), lmer.df = s),
  binary = with_pairs(binary, "~ late"),
  binary_mean = means(binary, ~ 1),
  control = list(contrast = table_of(contrast(e, "trt.vs.ctrl"), adjust = "none")),
  poly = list(contrast = table_of(contrast(e, "poly"), adjust = "none")),
  poly_cake = list(contrast = table_of(contrast(emmeans(cake_factor, ~ temperature | recipe), "poly"), adjust = "none")),
  custom = list(contrast = table_of(contrast(e, list(last = c(-1, -1, -1, 3) / 3, first = c(1, -1, 0, 0))), adjust = "holm"))
)
versions <- sapply(c("emmeans", "lme4", "lmerTest", "pbkrtest"), function(p) as.character(packageVersion(p)), simplify = FALSE)
result <- list(meta = list(R = R.version.string, packages = versions, script = "tests/reference/make_means_reference.R"), cases = cases)
text <- toJSON(result, auto_unbox = TRUE, digits = NA, null = "null", na = "null", dataframe = "columns", factor = "string")
for (id in names(cases)) text <- sub(paste0('"', id, '":{'), paste0('\n"', id, '":{'), text, fixed = TRUE)
writeLines(text, OUT)
cat(OUT, file.size(OUT), "bytes\n")
