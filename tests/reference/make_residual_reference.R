# Reference numbers for residual covariance structures, computed by nlme's gls and lme.
#   Rscript tests/reference/make_residual_reference.R    (from the repository root; writes residual_reference.json)
# Packages: nlme, jsonlite. Every log-likelihood is also computed from a dense V here, at the optimum found.

suppressPackageStartupMessages({ library(nlme); library(jsonlite) })
OUT <- "tests/reference/residual_reference.json"
seed <- function(s) set.seed(s, kind = "Mersenne-Twister", normal.kind = "Inversion", sample.kind = "Rejection")
plain <- function(d) { for (v in names(d)) if (is.factor(d[[v]])) d[[v]] <- factor(as.character(d[[v]])); as.data.frame(d) }

# ---- data: numbers published by Pierson & Ginther (1987), Potthoff & Roy (1964), Hand & Crowder (1996), and two simulations

ovary <- plain(Ovary)
ovary$step <- ave(seq_len(nrow(ovary)), ovary$Mare, FUN = seq_along)
ovary$s <- sin(2 * pi * ovary$Time); ovary$c <- cos(2 * pi * ovary$Time)
orthodont <- plain(Orthodont)
orthodont$visit <- as.integer((orthodont$age - 6) / 2)
rats <- plain(BodyWeight)

series_data <- function() {                      # 24 series of 4 to 9 times with gaps, AR(1) errors, sd by arm
  seed(20260101)
  one <- function(i) {
    day <- sort(sample(12, sample(4:9, 1)))
    arm <- c("a", "b", "c")[1 + i %% 3]
    e <- drop(t(chol(0.7^abs(outer(day, day, "-")))) %*% rnorm(length(day))) * c(a = 1, b = 1.6, c = 0.7)[[arm]]
    data.frame(id = sprintf("i%02d", i), day = day, arm = arm, y = 5 + 0.3 * day + rnorm(1, 0, 1.2) + e)
  }
  d <- do.call(rbind, lapply(1:24, one))
  d$y <- signif(d$y, 6); d$arm <- factor(d$arm); d$id <- factor(d$id); d$exposure <- signif(runif(nrow(d), 0.5, 3), 4)
  d[sample(nrow(d)), ]
}

trial_data <- function() {                       # 40 subjects, 4 visits, some of them missing, unstructured errors
  seed(20260102)
  S <- diag(c(1, 1.3, 1.6, 2)) %*% (0.35 + 0.65 * 0.6^abs(outer(1:4, 1:4, "-"))) %*% diag(c(1, 1.3, 1.6, 2))
  d <- expand.grid(visit = 1:4, subject = sprintf("s%02d", 1:40))
  d$arm <- factor(ifelse(as.integer(d$subject) %% 2, "new", "old"))
  d$y <- signif(10 + 0.5 * d$visit * (d$arm == "new") + as.vector(t(chol(S)) %*% matrix(rnorm(160), 4)), 6)
  d[sort(sample(160, 138)), ]
}

data <- list(ovary = ovary[c("Mare", "step", "Time", "s", "c", "follicles")], orthodont = orthodont[c("Subject", "Sex", "age", "visit", "distance")],
             rats = rats[c("Rat", "Diet", "Time", "weight")], series = series_data(), trial = trial_data())

# ---- models ----------------------------------------------------------------------------------------------------------

m <- function(data, fixed, random = NULL, cor = NULL, var = NULL) list(data = data, fixed = fixed, random = random, cor = cor, var = var)
wave <- follicles ~ s + c; growth <- distance ~ Sex * age; diet <- weight ~ Time * Diet; arms <- y ~ arm * day; visits <- y ~ arm * factor(visit)
models <- list(
  ovary_gls_ar1 = m("ovary", wave, cor = quote(corAR1(form = ~ step | Mare))),
  ovary_lme_ar1 = m("ovary", wave, ~ 1 | Mare, quote(corAR1(form = ~ step | Mare))),
  ovary_gls_car1 = m("ovary", wave, cor = quote(corCAR1(form = ~ Time | Mare))),
  orthodont_gls_cs = m("orthodont", growth, cor = quote(corCompSymm(form = ~ 1 | Subject))),
  orthodont_gls_symm = m("orthodont", growth, cor = quote(corSymm(form = ~ visit | Subject))),
  orthodont_gls_un = m("orthodont", growth, cor = quote(corSymm(form = ~ visit | Subject)), var = quote(varIdent(form = ~ 1 | visit))),
  orthodont_gls_cs_ident = m("orthodont", growth, cor = quote(corCompSymm(form = ~ 1 | Subject)), var = quote(varIdent(form = ~ 1 | Sex))),
  orthodont_lme_ident = m("orthodont", growth, ~ 1 | Subject, var = quote(varIdent(form = ~ 1 | Sex))),
  rats_lme_power = m("rats", diet, ~ Time | Rat, var = quote(varPower(form = ~ Time))),
  rats_lme_car1 = m("rats", diet, ~ Time | Rat, quote(corCAR1(form = ~ Time | Rat))),
  rats_gls_power_ar1 = m("rats", diet, cor = quote(corAR1(form = ~ Time | Rat)), var = quote(varPower(form = ~ Time))),
  series_lme_ar1_ident = m("series", arms, ~ 1 | id, quote(corAR1(form = ~ day | id)), quote(varIdent(form = ~ 1 | arm))),
  series_gls_car1_power = m("series", arms, cor = quote(corCAR1(form = ~ day | id)), var = quote(varPower(form = ~ exposure))),
  series_lme_cs_weights = m("series", arms, ~ 0 + day | id, quote(corCompSymm(form = ~ 1 | id)), quote(varFixed(~ exposure))),
  trial_gls_un = m("trial", visits, cor = quote(corSymm(form = ~ visit | subject)), var = quote(varIdent(form = ~ 1 | visit))))

# ---- fits ------------------------------------------------------------------------------------------------------------

dense_criterion <- function(y, X, V, REML) {     # -2 log-likelihood at V, all constants in it
  U <- chol(V); Xw <- backsolve(U, X, transpose = TRUE); yw <- backsolve(U, y, transpose = TRUE)
  r <- qr.resid(qr(Xw), yw); n <- length(y) - if (REML) ncol(X) else 0
  n * log(2 * pi) + 2 * sum(log(diag(U))) + sum(r^2) + if (REML) determinant(crossprod(Xw))$modulus else 0
}

group_of <- function(model) {                    # the name of the factor that the series or the random effects belong to
  if (is.null(model$random)) deparse(model$cor[["form"]][[2]][[3]]) else deparse(model$random[[2]][[3]])
}

dense_covariance <- function(fit, d, model) {
  group <- factor(as.character(d[[group_of(model)]]))
  sd <- if (is.null(model$var)) rep(1, nrow(d)) else 1 / varWeights(fit$modelStruct$varStruct)
  sd <- sd[order(order(group))]                  # gls and lme sort their rows by group
  R <- diag(nrow(d))
  if (!is.null(model$cor)) {
    blocks <- corMatrix(fit$modelStruct$corStruct)
    for (g in levels(group)) { rows <- which(group == g); R[rows, rows] <- blocks[[g]] }
  }
  V <- fit$sigma^2 * outer(sd, sd) * R
  if (is.null(model$random)) return(V)
  Z <- model.matrix(as.formula(call("~", model$random[[2]][[2]])), d)
  V + (Z %*% unclass(getVarCov(fit)) %*% t(Z)) * outer(group, group, "==")
}

one_fit <- function(model, REML) {
  d <- data[[model$data]]; method <- if (REML) "REML" else "ML"
  arguments <- list(model$fixed, data = d, correlation = eval(model$cor), weights = eval(model$var), method = method)
  if (is.null(model$random)) {
    control <- glsControl(maxIter = 500, msMaxIter = 2000, tolerance = 1e-14, msTol = 1e-15)
    fit <- do.call(gls, c(arguments, list(control = control)))
  } else {
    control <- lmeControl(maxIter = 500, msMaxIter = 2000, msMaxEval = 5000, tolerance = 1e-14, msTol = 1e-15, niterEM = 100)
    fit <- do.call(lme, c(arguments, list(random = model$random, control = control)))
  }
  value <- -2 * as.numeric(logLik(fit))
  V <- dense_covariance(fit, d, model)
  again <- dense_criterion(eval(model$fixed[[2]], d), model.matrix(model$fixed, d), V, REML)
  if (abs(value - again) > 1e-7 * abs(value)) stop(sprintf("%s: %.10f against %.10f", deparse(model$cor), value, again))
  beta <- if (is.null(model$random)) coef(fit) else fixef(fit)
  out <- list(criterion = value, df = attr(logLik(fit), "df"), beta = unname(beta), se = unname(sqrt(diag(vcov(fit)))), sigma = fit$sigma)
  if (!is.null(model$cor)) out$correlation <- as.list(unname(coef(fit$modelStruct$corStruct, unconstrained = FALSE)))
  if (!is.null(model$var) && length(coef(fit$modelStruct$varStruct))) out$variance <- as.list(coef(fit$modelStruct$varStruct, unconstrained = FALSE))
  if (!is.null(model$random)) out$covariance <- { G <- unclass(getVarCov(fit)); matrix(G, nrow(G)) }
  out
}

text_of <- function(e) if (is.null(e)) NULL else paste(deparse(e), collapse = " ")
entry <- function(model) c(lapply(model[c("fixed", "random", "cor", "var")], text_of), data = model$data,
                           list(REML = one_fit(model, TRUE), ML = one_fit(model, FALSE)))
fitted <- lapply(models, entry)

columns <- function(d) lapply(as.list(d), function(v) if (is.factor(v)) as.character(v) else v)
meta <- list(R = R.version.string, packages = sapply(c("nlme", "jsonlite"), function(p) as.character(packageVersion(p)), simplify = FALSE))
text <- toJSON(list(meta = meta, data = lapply(data, columns), models = fitted), auto_unbox = TRUE, digits = I(15), matrix = "rowmajor", null = "null")
for (key in c("data", names(data), "models", names(fitted), "REML", "ML")) text <- gsub(paste0('"', key, '":{'), paste0('\n"', key, '":{'), text, fixed = TRUE)
writeLines(text, OUT)
for (id in names(fitted)) for (kind in c("REML", "ML"))
  cat(sprintf("%-24s %-4s %.10f  sigma %.6f\n", id, kind, fitted[[id]][[kind]]$criterion, fitted[[id]][[kind]]$sigma))
cat(OUT, file.size(OUT), "bytes\n")
