# Tests and intervals of the models in reference.json, computed by lmerTest and pbkrtest at the optima stored there.
#   Rscript tests/reference/make_inference_reference.R      (from the repository root; writes inference_reference.json, about 60 s)
# Packages: lme4, lmerTest, pbkrtest, jsonlite.

invisible(Sys.setlocale("LC_ALL", "C.UTF-8"))
options(width = 80, contrasts = c("contr.treatment", "contr.poly"))
suppressPackageStartupMessages({ library(lme4); library(lmerTest); library(pbkrtest); library(jsonlite) })
OUT <- "tests/reference/inference_reference.json"
SOURCE <- fromJSON("tests/reference/reference.json", simplifyDataFrame = FALSE)

vec <- function(x) I(unname(signif(as.numeric(x), 15)))
mat <- function(x) I(unname(signif(as.matrix(x), 15)))

frame_of <- function(M) {
  described <- SOURCE$datasets[[M$dataset]]
  column <- function(v, kind) if (kind$type == "numeric") as.numeric(v) else factor(v, levels = kind$levels, ordered = kind$type == "ordered")
  data <- as.data.frame(Map(column, described$data[names(described$columns)], described$columns))
  for (v in names(M$extra_columns)) {
    e <- sapply(M$extra_columns[[v]], function(x) if (is.null(x)) NA else x)
    data[[v]] <- if (is.character(e)) factor(e) else e
  }
  if (!is.null(data$keep)) data[data$keep == 1, ] else data
}

# lme4's modular steps, stopped at a given theta; lmerTest needs the call to find the data again
fit_at <- function(formula, data, theta, REML = TRUE, contrasts = NULL, weights = NULL) {
  assign("the_data", data, envir = globalenv())
  mc <- list(quote(lmer), formula = as.formula(formula), data = quote(the_data), REML = REML)
  if (length(contrasts)) mc$contrasts <- contrasts
  if (!is.null(weights)) mc$weights <- as.name(weights)
  mc <- as.call(mc)
  lf <- mc; lf[[1]] <- quote(lme4::lFormula); lf$control <- lmerControl(check.nobs.vs.nRE = "ignore"); lf <- eval(lf, globalenv())
  devfun <- do.call(lme4::mkLmerDevfun, c(lf[c("fr", "X", "reTrms", "REML")], list(control = lmerControl())))
  value <- devfun(theta)
  opt <- list(par = theta, fval = value, conv = 0, message = "", feval = 1)
  fit <- mkMerMod(environment(devfun), opt, lf$reTrms, fr = lf$fr, mc = mc)
  lmerTest:::as_lmerModLT(fit, devfun)
}

# the same model without weights, on rows times sqrt(w): pbkrtest ignores weights
unweighted <- function(M, data, theta) {
  w <- sqrt(data[[M$weights]]); lf <- lFormula(as.formula(M$formula), data)
  d <- data.frame(y = w * lf$fr[[1]], lapply(lf$fr[names(lf$reTrms$flist)], identity))
  X <- as.data.frame(unname(w * as.matrix(lf$X))); names(X) <- paste0("x", seq_along(X)); d <- cbind(d, X)
  terms <- vapply(seq_along(lf$reTrms$cnms), function(i) {
    columns <- lf$reTrms$cnms[[i]]; z <- paste0("z", i, seq_along(columns))
    for (j in seq_along(columns)) d[[z[j]]] <<- w * (if (columns[j] == "(Intercept)") 1 else data[[columns[j]]])
    sprintf("(0 + %s | %s)", paste(z, collapse = " + "), names(lf$reTrms$cnms)[i])
  }, "")
  fit_at(paste("y ~ 0 +", paste(c(names(X), terms), collapse = " + ")), d, theta)
}

rows <- function(table) if (!nrow(table)) list() else
  lapply(seq_len(nrow(table)), function(i) list(term = rownames(table)[i], sumsq = table[i, 1], meansq = table[i, 2], numdf = table[i, 3],
                                                dendf = table[i, 4], F = table[i, 5], p = table[i, 6]))

coefficients_of <- function(fit, ddf) {
  S <- coef(summary(fit, ddf = ddf))
  list(se = vec(S[, 2]), df = vec(S[, 3]), t = vec(S[, 4]), p = vec(S[, 5]))
}

one <- function(M) {
  cat(M$formula, "\n"); data <- frame_of(M); theta <- unlist(M$fits$REML$theta); contrasts <- as.list(M$contrasts)
  fit <- fit_at(M$formula, data, theta, TRUE, contrasts, M$weights)
  out <- list()
  if (is.null(M$weights)) out$kenward_roger <- c(coefficients_of(fit, "Kenward-Roger"), list(vcov = mat(vcovAdj(fit)))) else {
    u <- unweighted(M, data, theta)
    out$kenward_roger <- c(coefficients_of(u, "Kenward-Roger"), list(vcov = mat(vcovAdj(u))))
  }
  for (type in c("I", "II", "III")) out$anova_satterthwaite[[type]] <- rows(anova(fit, type = type))
  if (is.null(M$weights)) for (type in c("I", "II", "III")) out$anova_kenward_roger[[type]] <- rows(anova(fit, type = type, ddf = "Kenward-Roger"))
  ml <- fit_at(M$formula, data, unlist(M$fits$ML$theta), FALSE, contrasts, M$weights)
  out$ml_anova_satterthwaite$III <- rows(anova(ml, type = "III"))
  out
}

SKIP <- c("sleep_p0", "sleep_rank_deficient", "sleep_offset", "penicillin_weights_offset", "sleep_missing", "sleep_interaction", "flat_none")
models <- SOURCE$models[setdiff(names(SOURCE$models), SKIP)]

# small models against large ones, by KRmodcomp
pairs <- list(c("irrigation_full_sum", "yield ~ irrigation + variety + (1|field)"), c("irrigation_add_trt", "yield ~ variety + (1|field)"),
              c("irrigation_add_trt", "yield ~ irrigation + (1|field)"), c("cake", "angle ~ recipe + temperature + (1|recipe:replicate)"),
              c("cake_temp", "angle ~ temp + (1|recipe:replicate)"), c("machines_slope", "score ~ 1 + (Machine|Worker)"),
              c("sleep_unbalanced", "Reaction ~ 1 + (Days|Subject)"), c("sleep_log_quadratic", "log(Reaction) ~ 1 + (Days|Subject)"))
compared <- lapply(pairs, function(x) {
  M <- SOURCE$models[[x[1]]]; data <- frame_of(M)
  large <- fit_at(M$formula, data, unlist(M$fits$REML$theta), TRUE, as.list(M$contrasts))
  small <- suppressMessages(lmer(as.formula(x[2]), the_data))
  s <- KRmodcomp(large, small)$test
  list(model = x[1], small = x[2], F = s["Ftest", "stat"], ndf = s["Ftest", "ndf"], ddf = s["Ftest", "ddf"], scaling = s["Ftest", "F.scaling"],
       p = s["Ftest", "p.value"], F_unscaled = s["FtestU", "stat"], p_unscaled = s["FtestU", "p.value"])
})

printed <- function(id, ddf) {
  M <- SOURCE$models[[id]]
  fit <- fit_at(M$formula, frame_of(M), unlist(M$fits$REML$theta), TRUE, as.list(M$contrasts))
  I(capture.output(print(summary(fit, ddf = ddf), correlation = FALSE)))
}

result <- list(meta = sapply(c("lme4", "lmerTest", "pbkrtest"), function(p) as.character(packageVersion(p)), simplify = FALSE),
               models = lapply(models, one), kr_compare = compared,
               printed = list(sleep_unbalanced = printed("sleep_unbalanced", "Kenward-Roger"), cake = printed("cake", "Kenward-Roger"),
                              schools = printed("schools", "Kenward-Roger")))
writeLines(toJSON(result, digits = NA, auto_unbox = TRUE, null = "null", na = "null"), OUT)
