# Reference numbers for structured covariances, computed by nlme and lme4.
#   Rscript tests/reference/make_covariance_reference.R    (from the repository root; writes covariance_reference.json)
# Packages: nlme, lme4, jsonlite. Every log-likelihood is also computed from a dense V here, at the optimum found.

suppressPackageStartupMessages({ library(nlme); library(lme4); library(jsonlite) })
OUT <- "tests/reference/covariance_reference.json"
seed <- function(s) set.seed(s, kind = "Mersenne-Twister", normal.kind = "Inversion", sample.kind = "Rejection")

# ---- data ------------------------------------------------------------------------------------------------------------

visits_data <- function() {                      # 14 subjects, 3 visits, 2 measurements at each
  seed(20250201)
  d <- expand.grid(rep = 1:2, visit = c("v1", "v2", "v3"), subject = sprintf("s%02d", 1:14))
  d$x <- signif(rnorm(nrow(d)), 6)
  B <- matrix(rnorm(42), 14) %*% chol(2.25 * (0.6 + 0.4 * diag(3)))
  b <- B[cbind(as.integer(d$subject), as.integer(d$visit))]
  d$y <- signif(12 + 0.8 * d$x + b + rnorm(nrow(d), 0, 0.9), 6)
  d[c("subject", "visit", "x", "y")]
}

pedigree <- function() {                         # 10 founders, then 26 animals of earlier parents
  seed(20250202)
  sire <- dam <- rep(NA_integer_, 36)
  for (i in 11:36) { parents <- sample(i - 1, 2); sire[i] <- parents[1]; dam[i] <- parents[2] }
  list(sire = sire, dam = dam)
}

kinship <- function(p) {                         # the tabular method: A[i, j] is the mean over i's parents of A[parent, j]
  A <- diag(length(p$sire))
  for (i in which(!is.na(p$sire))) {
    before <- seq_len(i - 1)
    A[i, before] <- A[before, i] <- (A[p$sire[i], before] + A[p$dam[i], before]) / 2
    A[i, i] <- 1 + A[p$sire[i], p$dam[i]] / 2
  }
  dimnames(A) <- rep(list(sprintf("a%02d", seq_along(p$sire))), 2)
  A
}

animals_data <- function(A) {                    # repeated records in 6 pens; animals a01 to a04 have none
  seed(20250203)
  recorded <- rownames(A)[-(1:4)]
  d <- data.frame(animal = factor(sample(c(recorded, recorded, sample(recorded, 26))), levels = recorded))
  d$pen <- factor(sample(sprintf("p%d", 1:6), nrow(d), TRUE))
  d$x <- signif(rnorm(nrow(d)), 6)
  a <- drop(t(chol(A)) %*% rnorm(nrow(A), 0, 1.5)); names(a) <- rownames(A)
  d$y <- signif(40 - 1.2 * d$x + a[as.character(d$animal)] + rnorm(6, 0, 0.8)[as.integer(d$pen)] + rnorm(nrow(d)), 6)
  d
}

# ---- likelihoods -----------------------------------------------------------------------------------------------------

dense_criterion <- function(y, X, V, REML) {     # -2 log-likelihood at V, all constants in it
  U <- chol(V); Xw <- backsolve(U, X, transpose = TRUE); yw <- backsolve(U, y, transpose = TRUE)
  r <- qr.resid(qr(Xw), yw); n <- length(y) - if (REML) ncol(X) else 0
  n * log(2 * pi) + 2 * sum(log(diag(U))) + sum(r^2) + if (REML) determinant(crossprod(Xw))$modulus else 0
}

agrees <- function(value, dense) stopifnot(abs(value - as.numeric(dense)) < 1e-8 * abs(value))
indicators <- function(f) unname(model.matrix(~ 0 + f))

visit_fit <- function(d, structure, REML) {
  tight <- lmeControl(maxIter = 500, msMaxIter = 2000, msMaxEval = 5000, tolerance = 1e-13, msTol = 1e-13, niterEM = 200)
  random <- list(subject = structure(~ 0 + visit))
  fit <- lme(y ~ x, d, random, method = if (REML) "REML" else "ML", control = tight)
  G <- unclass(getVarCov(fit)); attributes(G) <- attributes(G)["dim"]
  same <- indicators(d$subject) %*% t(indicators(d$subject)); W <- indicators(d$visit)
  value <- -2 * as.numeric(logLik(fit))
  agrees(value, dense_criterion(d$y, model.matrix(~ x, d), same * (W %*% G %*% t(W)) + fit$sigma^2 * diag(nrow(d)), REML))
  list(criterion = value, beta = unname(fixef(fit)), vcov = unname(vcov(fit)), sigma = fit$sigma, covariance = G,
       df = attr(logLik(fit), "df"))
}

# As pedigreemm: with A = LL', Zb is (ZL)u with independent u, so that lme4 fits it once Z' is replaced by L'Z'.
animal_fit <- function(formula, d, A, REML) {
  lax <- lmerControl(check.nobs.vs.nlev = "ignore", check.nobs.vs.nRE = "ignore")
  parts <- lFormula(formula, d, REML = REML, control = lax)
  animals <- levels(parts$reTrms$flist$animal)
  root <- t(chol(A[animals, animals]))
  rows <- parts$reTrms$Gp; at <- which(names(parts$reTrms$cnms) == "animal")
  own <- seq(rows[at] + 1, rows[at + 1])
  parts$reTrms$Zt[own, ] <- as(t(root) %*% parts$reTrms$Zt[own, ], "CsparseMatrix")
  devfun <- do.call(mkLmerDevfun, parts)
  opt <- polished(devfun, optimizeLmer(devfun, optimizer = "bobyqa"))
  fit <- mkMerMod(environment(devfun), opt, parts$reTrms, parts$fr)
  sd <- getME(fit, "theta") * sigma(fit); names(sd) <- names(parts$reTrms$cnms)
  Z <- indicators(d$animal)
  V <- sd[["animal"]]^2 * Z %*% A[animals, animals] %*% t(Z) + sigma(fit)^2 * diag(nrow(d))
  if ("pen" %in% names(sd)) V <- V + sd[["pen"]]^2 * tcrossprod(indicators(d$pen))
  value <- -2 * as.numeric(logLik(fit)); X <- getME(fit, "X")
  agrees(value, dense_criterion(d$y, X, V, REML))
  blup <- sd[["animal"]]^2 * A[animals, animals] %*% t(Z) %*% solve(V, d$y - X %*% fixef(fit))
  list(criterion = value, beta = unname(fixef(fit)), vcov = unname(as.matrix(vcov(fit))), sigma = sigma(fit), sd = as.list(sd),
       animals = animals, blup = drop(unname(blup)), df = attr(logLik(fit), "df"))
}

polished <- function(devfun, opt) {              # more digits than bobyqa's: the best of further searches from its end
  for (k in 1:3) {
    again <- nlminb(opt$par, devfun, lower = 0, control = list(rel.tol = 1e-15, x.tol = 1e-12, eval.max = 2000))
    if (again$objective <= opt$fval) { opt$par <- again$par; opt$fval <- again$objective }
  }
  devfun(opt$par); opt
}

# ---- the file --------------------------------------------------------------------------------------------------------

both <- function(fit, ...) list(REML = fit(..., REML = TRUE), ML = fit(..., REML = FALSE))
V <- visits_data(); A <- kinship(pedigree()); D <- animals_data(A)
pens <- y ~ x + (1 | animal) + (1 | pen)
models <- list(compound_symmetry = both(visit_fit, V, pdCompSymm), full = both(visit_fit, V, pdSymm),
               animal = both(animal_fit, y ~ x + (1 | animal), D, A), animal_pen = both(animal_fit, pens, D, A))
columns <- function(d) lapply(as.list(d), function(v) if (is.factor(v)) as.character(v) else v)
meta <- list(R = R.version.string, packages = sapply(c("nlme", "lme4", "jsonlite"), function(p) as.character(packageVersion(p)),
                                                     simplify = FALSE))
result <- list(meta = meta, data = list(visits = columns(V), animals = columns(D)),
               kinship = list(names = rownames(A), A = unname(A)), models = models)
text <- toJSON(result, auto_unbox = TRUE, digits = I(15), matrix = "rowmajor")
for (key in c("data", "animals", "kinship", "models", names(models)[-3], "REML", "ML"))
  text <- gsub(paste0('"', key, '":{'), paste0('\n"', key, '":{'), text, fixed = TRUE)
writeLines(text, OUT)
for (id in names(models)) for (kind in c("REML", "ML"))
  cat(sprintf("%-18s %-4s %.10f  sigma %.6f\n", id, kind, models[[id]][[kind]]$criterion, models[[id]][[kind]]$sigma))
cat(OUT, file.size(OUT), "bytes\n")
