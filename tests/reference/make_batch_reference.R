# Many responses of one design, each fitted by lme4 alone: what tests/test_batch_reference.py compares a batch with.
#   Rscript tests/reference/make_batch_reference.R      (from the repository root; writes batch_reference.json, about 60 s)
# Reads the data sets of reference.json, simulates eight responses for each model (half of them without any random effect) and
# stores the least ML and REML criterion that any of lme4's optimisers finds. Packages: lme4, minqa, jsonlite.

invisible(Sys.setlocale("LC_ALL", "C.UTF-8"))
options(contrasts = c("contr.treatment", "contr.poly"))
suppressPackageStartupMessages({ library(lme4); library(jsonlite) })
SOURCE <- "tests/reference/reference.json"
OUT <- "tests/reference/batch_reference.json"
SETS <- fromJSON(SOURCE)$datasets

# theta, beta, sigma: the parameters that responses are simulated with, theta in the order of lme4
m <- function(dataset, formula, theta, beta, sigma, columns = list(), weights = NULL, offset = NULL)
  list(dataset = dataset, formula = formula, theta = theta, beta = beta, sigma = sigma, columns = columns, weights = weights, offset = offset)

MODELS <- list(
  pulp = m("pulp", "bright ~ 1 + (1|operator)", 0.8, 60, 0.33),
  sleep_vector = m("sleepstudy", "Reaction ~ Days + (Days|Subject)", c(0.9, 0.05, 0.2), c(250, 10), 25),
  sleep_weights = m("sleepstudy", "Reaction ~ Days + (Days|Subject)", c(0.7, -0.1, 0.25), c(250, 10), 25,
                    list(w = 0.5 + (1:180 %% 4) / 3, off = ((7 * 1:180) %% 11) / 2), "w", "off"),
  sleep_diagonal = m("sleepstudy", "Reaction ~ Days + (Days||Subject)", c(0.9, 0.2), c(250, 10), 25),
  penicillin = m("Penicillin", "diameter ~ 1 + (1|plate) + (1|sample)", c(1.2, 2), 23, 0.55),
  penicillin_weights = m("Penicillin", "diameter ~ 1 + (1|plate) + (1|sample)", c(0.6, 0.9), 23, 0.55,
                         list(w = 0.5 + (1:144 %% 5) / 4, off = ((7 * 1:144) %% 11) / 10), "w", "off"),
  pastes = m("Pastes", "strength ~ 1 + (1|batch/cask)", c(3, 1.5), 60, 0.8),
  eggs = m("eggs", "Fat ~ 1 + (1|Lab/Technician/Sample)", c(0.8, 0.9, 0.7), 0.39, 0.085),
  machines = m("Machines", "score ~ Machine + (Machine|Worker)", c(4, 2, -3, 3, 1, 1.5), c(52, 8, 14), 0.96),
  cake = m("cake", "angle ~ recipe + temp + (1|replicate/recipe)", c(0.5, 1.4), c(1.5, -1.5, -1.5, 0.16), 4.5),
  items = m("items", "y ~ x + (1+x|subj) + (1|item)", c(1, 0.25, 0.4, 0.7), c(20, 2), 2),
  schools = m("schools", "y ~ 1 + (1|school/class) + (1|rater)", c(0.8, 1.2, 0.6), 50, 3))

seed <- function(s) set.seed(s, kind = "Mersenne-Twister", normal.kind = "Inversion", sample.kind = "Rejection")

frame_of <- function(M) {
  described <- SETS[[M$dataset]]
  column <- function(v, kind) if (kind$type == "numeric") as.numeric(v) else factor(v, levels = kind$levels, ordered = kind$type == "ordered")
  data <- as.data.frame(Map(column, described$data[names(described$columns)], described$columns))
  for (v in names(M$columns)) data[[v]] <- M$columns[[v]]
  data
}

parsed <- function(M, data, reml) {
  call <- list(formula = as.formula(M$formula), data = data, REML = reml, control = lmerControl(check.nobs.vs.nRE = "ignore"))
  if (!is.null(M$weights)) call$weights <- data[[M$weights]]
  if (!is.null(M$offset)) call$offset <- data[[M$offset]]
  do.call(lFormula, call)
}

# ---- responses: full, full, weak, weak random effects, then four without any ------------------------------------------

responses <- function(M, data) {
  lf <- parsed(M, data, TRUE); re <- lf$reTrms; n <- nrow(lf$X)
  w <- if (is.null(M$weights)) rep(1, n) else data[[M$weights]]
  off <- if (is.null(M$offset)) rep(0, n) else data[[M$offset]]
  stopifnot(length(M$beta) == ncol(lf$X), length(M$theta) == length(re$theta))
  t(vapply(c(1, 1, 0.3, 0.3, 0, 0, 0, 0), function(share) {
    Lambdat <- re$Lambdat; Lambdat@x <- (share * M$theta)[re$Lind]
    b <- as.numeric(crossprod(Lambdat, rnorm(nrow(re$Zt), 0, M$sigma)))
    signif(as.numeric(lf$X %*% M$beta) + as.numeric(crossprod(re$Zt, b)) + off + rnorm(n, 0, M$sigma) / sqrt(w), 6)
  }, numeric(n)))
}

# ---- the least criterion ---------------------------------------------------------------------------------------------

least <- function(devfun, lower) {
  diagonal <- lower == 0
  found <- list()
  attempt <- function(expr) {
    par <- tryCatch(suppressWarnings(expr), error = function(e) NULL)
    if (!is.null(par)) found[[length(found) + 1]] <<- list(par = par, value = devfun(par))
  }
  by_all <- function(s, size) {
    if (length(s) > 1) attempt(minqa::bobyqa(s, devfun, lower = lower, control = list(rhobeg = 0.1 * size, rhoend = 1e-9, maxfun = 2e4))$par)
    attempt(nlminb(s, devfun, lower = lower, control = list(rel.tol = 1e-14, x.tol = 1e-11, eval.max = 5000, iter.max = 2000))$par)
    attempt(Nelder_Mead(devfun, s, lower = lower, upper = rep(Inf, length(s)),
                        control = list(maxfun = 2e4, FtolAbs = 1e-12, FtolRel = 1e-15, XtolRel = 1e-10))$par)
  }
  best <- function() found[[which.min(vapply(found, `[[`, 0, "value"))]]
  for (size in c(1, 0.2, 3)) by_all(size * ifelse(diagonal, 1, 0.1), size)
  if (!all(diagonal)) for (size in c(1, 0.5, 0.2)) {        # signs of covariances: bounded searches do not change them at zero
    s <- rnorm(length(lower), 0, size)
    by_all(ifelse(diagonal, abs(s), s), size)
  }
  for (limit in c(1e-3, 0.05, 0.2)) {                       # the boundary itself, and the others once more from there
    s <- best()$par; s[abs(s) < limit] <- 0
    attempt(s)
    by_all(s, 0.1)
  }
  by_all(best()$par, 1e-3)
  c(value = best()$value, range = diff(range(head(sort(vapply(found, `[[`, 0, "value")), 3))))
}

criterion <- function(M, data, y, reml) {
  data[[all.vars(as.formula(M$formula))[1]]] <- y
  lf <- parsed(M, data, reml)
  devfun <- do.call(mkLmerDevfun, lf)
  least(devfun, lf$reTrms$lower)
}

model_json <- function(id) {
  M <- MODELS[[id]]; data <- frame_of(M)
  seed(20240200 + match(id, names(MODELS)))
  Y <- responses(M, data)
  fits <- lapply(c(REML = TRUE, ML = FALSE), function(reml) apply(Y, 1, function(y) criterion(M, data, y, reml)))
  cat(sprintf("%-20s the best three agree to %.1e\n", id, max(fits$REML["range", ], fits$ML["range", ])))
  list(dataset = M$dataset, formula = M$formula, columns = if (length(M$columns)) lapply(M$columns, I), weights = M$weights, offset = M$offset,
       responses = Y, REML = I(fits$REML["value", ]), ML = I(fits$ML["value", ]))
}

versions <- sapply(c("lme4", "minqa", "Matrix", "jsonlite"), function(p) as.character(packageVersion(p)), simplify = FALSE)
result <- list(meta = list(R = R.version.string, packages = versions, script = "tests/reference/make_batch_reference.R"),
               models = sapply(names(MODELS), model_json, simplify = FALSE))
text <- toJSON(result, auto_unbox = TRUE, digits = NA, null = "null", na = "null", matrix = "rowmajor")
text <- gsub('"(models|responses|REML)":', '\n"\\1":', text)
for (id in names(MODELS)) text <- gsub(paste0('"', id, '":{'), paste0('\n"', id, '":{'), text, fixed = TRUE)
writeLines(text, OUT)
cat(OUT, file.size(OUT), "bytes\n")
