# Reference numbers for the tests of lmmjax, computed by lme4 / lmerTest.
#   Rscript tests/reference/make_reference.R        (from the repository root; writes tests/reference/reference.json)
# Packages: lme4, lmerTest, minqa, nlme (data set Machines only), jsonlite. See README.md beside this file.

invisible(Sys.setlocale("LC_ALL", "C.UTF-8"))
options(width = 80, digits = 7, scipen = 0, contrasts = c("contr.treatment", "contr.poly"))
suppressPackageStartupMessages({ library(lme4); library(lmerTest); library(jsonlite) })
OUT <- "tests/reference/reference.json"
ONLY <- commandArgs(TRUE)                       # ids to run alone while developing: prints, writes nothing

# ---- data ------------------------------------------------------------------------------------------------------------

data_sets <- function() {
  D <- list()
  for (name in c("sleepstudy", "Dyestuff", "Dyestuff2", "Penicillin", "Pastes", "cake")) {
    e <- new.env(); data(list = name, package = "lme4", envir = e); D[[name]] <- as.data.frame(e[[name]])
  }
  # Sheldon (1960), brightness of paper pulp by shift operator (Faraway, Extending the Linear Model with R)
  D$pulp <- data.frame(
    bright = c(59.8, 60, 60.8, 60.8, 59.8, 59.8, 60.2, 60.4, 59.9, 60, 60.7, 60.7, 60.5, 60.9, 60.3, 61, 60.8, 60.6, 60.5, 60.5),
    operator = factor(rep(c("a", "b", "c", "d"), each = 5)))
  # irrigation split plot (Faraway): 8 fields, 4 irrigation methods on whole fields, 2 varieties within a field
  D$irrigation <- data.frame(
    field = factor(rep(paste0("f", 1:8), each = 2)), irrigation = factor(rep(paste0("i", c(1:4, 1:4)), each = 2)),
    variety = factor(rep(c("v1", "v2"), 8)),
    yield = c(35.4, 37.9, 36.7, 38.2, 34.8, 36.4, 39.5, 40, 41.6, 40.3, 42.7, 41.6, 43.6, 42.8, 44.5, 47.6))
  # Bliss (1967), fat content of dried egg by laboratory, technician, sample (Faraway)
  D$eggs <- data.frame(
    Fat = c(.62, .55, .34, .24, .80, .68, .76, .65, .30, .40, .33, .43, .39, .40, .29, .18, .46, .38, .27, .37, .37, .42, .45, .54,
            .18, .47, .53, .32, .40, .37, .31, .43, .35, .39, .37, .33, .42, .36, .20, .41, .37, .43, .28, .36, .18, .20, .26, .06),
    Lab = factor(rep(c("I", "II", "III", "IV", "V", "VI"), each = 8)),
    Technician = factor(rep(rep(c("one", "two"), each = 4), 6), levels = c("one", "two")),
    Sample = factor(rep(rep(c("G", "H"), each = 2), 12)))
  # Milliken & Johnson (1992), productivity scores; Worker is ordered by score in nlme, a plain factor here
  e <- new.env(); data("Machines", package = "nlme", envir = e)
  D$Machines <- data.frame(Worker = factor(as.character(e$Machines$Worker), levels = as.character(1:6)),
                           Machine = factor(as.character(e$Machines$Machine)), score = as.numeric(e$Machines$score))
  c(D, simulated_sets())
}

seed <- function(s) set.seed(s, kind = "Mersenne-Twister", normal.kind = "Inversion", sample.kind = "Rejection")

simulated_sets <- function() {
  seed(20240101)                                 # items: 24 subjects crossed with 12 items
  items <- expand.grid(item = sprintf("i%02d", 1:12), subj = sprintf("s%02d", 1:24))[, 2:1]
  items$x <- signif(rnorm(288), 6)
  B <- matrix(rnorm(48), 24) %*% chol(matrix(c(4, 0.9, 0.9, 1), 2)); ib <- rnorm(12, 0, 1.5)
  s <- as.integer(items$subj)
  items$y <- signif(20 + 2 * items$x + B[s, 1] + B[s, 2] * items$x + ib[as.integer(items$item)] + rnorm(288, 0, 2), 6)

  seed(20240102)                                 # schools: pupils in classes in schools, crossed with raters; class labels recur
  schools <- expand.grid(pupil = 1:6, class = c("a", "b", "c", "d"), school = sprintf("S%02d", 1:9))
  schools <- schools[sort(sample(nrow(schools), 200)), c("school", "class")]; rownames(schools) <- NULL
  schools$rater <- factor(sample(sprintf("r%d", 1:8), 200, TRUE))
  cl <- interaction(schools$school, schools$class)
  schools$y <- signif(50 + rnorm(9, 0, 4)[as.integer(schools$school)] + rnorm(36, 0, 2.5)[as.integer(cl)] +
                        rnorm(8, 0, 2)[as.integer(schools$rater)] + rnorm(200, 0, 3), 6)

  seed(20240103)                                 # flat: responses whose slope terms vanish or correlate perfectly
  flat <- data.frame(g = factor(rep(sprintf("g%02d", 1:16), each = 6)), x = rep(c(-2.5, -1.5, -0.5, 0.5, 1.5, 2.5), 16))
  g <- as.integer(flat$g); b <- rnorm(16)
  slopes <- function(e) tapply(e * flat$x, flat$g, sum) / 17.5
  even <- function() repeat { e <- rnorm(96); if (var(slopes(e)) < 0.5 / 17.5) return(e) }   # slopes more even than chance: a variance of 0
  flat$y_corr <- signif(10 + flat$x + (1.2 + 0.3 * flat$x) * b[g] + even(), 6)
  flat$y_neg <- signif(10 + flat$x + (1.2 - 0.2 * flat$x) * b[g] + even(), 6)
  flat$y_noslope <- signif(10 + flat$x + 1.2 * b[g] + even(), 6)
  repeat {                                       # nothing at all: both variances are 0
    e <- even()
    if (var(tapply(e, flat$g, mean)) < 0.5 / 6) break
  }
  flat$y_none <- signif(10 + flat$x + e, 6)
  list(items = items, schools = schools, flat = flat)
}

D <- data_sets()

# ---- the models ------------------------------------------------------------------------------------------------------

i_sleep <- 1:180; i_pen <- 1:144
sum2 <- list(irrigation = "contr.sum", variety = "contr.sum")
trt2 <- list(irrigation = "contr.treatment", variety = "contr.treatment")
nd_sleep <- list(Days = c(0, 9.288, 8.712, 0.144), Subject = c("308", "335", "372", "NEWLEVEL"))
nd_irr <- list(irrigation = c("i1", "i4", "i4", "i1"), variety = c("v1", "v2", "v2", "v1"), field = c("f1", "f4", "f8", "NEWLEVEL"))
nd_batch <- list(Batch = c("A", "C", "F", "NEWLEVEL"))
nd_pen <- list(plate = c("a", "l", "x", "NEWLEVEL"), sample = c("A", "F", "F", "NEWLEVEL"))
nd_pastes <- list(batch = c("A", "E", "J", "NEWLEVEL"), cask = c("a", "c", "c", "NEWLEVEL"), sample = c("A:a", "E:c", "J:c", "NEWLEVEL"))
nd_cake <- list(recipe = c("A", "B", "C", "A"), temperature = c("175", "195", "225", "175"), temp = c(175, 196.711, 223.289, 175.855),
                replicate = c("1", "8", "15", "NEWLEVEL"))
nd_mach <- list(Machine = c("A", "B", "C", "A"), Worker = c("1", "4", "6", "NEWLEVEL"))
nd_items <- list(x = c(0, 1.5, -2, 0.25), subj = c("s01", "s12", "s24", "NEWLEVEL"), item = c("i01", "i07", "i12", "NEWLEVEL"))
nd_flat <- list(x = c(-2.5, 0, 3, 1), g = c("g01", "g08", "g16", "NEWLEVEL"))
w_sleep <- list(w = 1 + i_sleep %% 4)
missing_rows <- c(1, 17, 18, 54, 90, 91, 92, 93, 94, 95, 96, 97, 98, 140, 180)
missing_reaction <- replace(D$sleepstudy$Reaction, missing_rows, NA)

m <- function(dataset, formula, newdata = NULL, contrasts = NULL, weights = NULL, offset = NULL, extra = NULL, keep = NULL, note = NULL, tags = NULL)
  list(dataset = dataset, formula = formula, newdata = newdata, contrasts = contrasts, weights = weights, offset = offset, extra = extra,
       keep = keep, note = note, tags = tags)

MODELS <- list(
  pulp_sum = m("pulp", "bright ~ 1 + (1|operator)", list(operator = c("a", "b", "d", "NEWLEVEL")), list(operator = "contr.sum")),
  irrigation_full_sum = m("irrigation", "yield ~ irrigation*variety + (1|field)", nd_irr, sum2),
  irrigation_full_trt = m("irrigation", "yield ~ irrigation*variety + (1|field)", nd_irr, trt2),
  irrigation_add_sum = m("irrigation", "yield ~ irrigation + variety + (1|field)", nd_irr, sum2),
  irrigation_add_trt = m("irrigation", "yield ~ irrigation + variety + (1|field)", nd_irr, trt2),
  eggs = m("eggs", "Fat ~ 1 + (1|Lab) + (1|Lab:Technician) + (1|Lab:Technician:Sample)",
           list(Lab = c("I", "III", "VI", "NEWLEVEL"), Technician = c("one", "two", "two", "NEWLEVEL"), Sample = c("G", "H", "H", "NEWLEVEL"))),
  eggs_slash = m("eggs", "Fat ~ 1 + (1|Lab/Technician/Sample)",
           list(Lab = c("I", "III", "VI", "NEWLEVEL"), Technician = c("one", "two", "two", "NEWLEVEL"), Sample = c("G", "H", "H", "NEWLEVEL")),
           note = "the model eggs, written with slashes: other names of groups and levels"),
  sleep_slope = m("sleepstudy", "Reaction ~ Days + (Days|Subject)", nd_sleep),
  sleep_uncorr = m("sleepstudy", "Reaction ~ Days + (Days||Subject)", nd_sleep),
  sleep_int = m("sleepstudy", "Reaction ~ Days + (1|Subject)", nd_sleep),
  sleep_slope_only = m("sleepstudy", "Reaction ~ Days + (0+Days|Subject)", nd_sleep),
  sleep_nointercept = m("sleepstudy", "Reaction ~ 0 + Days + (1|Subject)", nd_sleep),
  sleep_p0 = m("sleepstudy", "Reaction ~ 0 + (1|Subject)", nd_sleep, note = "no fixed effect: p = 0, where REML is ML (lme4 then calls the fit ML: devcomp.REML is null)"),
  sleep_log_quadratic = m("sleepstudy", "log(Reaction) ~ Days + I(Days^2) + (Days|Subject)", nd_sleep,
                          note = "predictions are on the log scale"),
  sleep_weights = m("sleepstudy", "Reaction ~ Days + (Days|Subject)", nd_sleep, weights = "w", extra = w_sleep,
                    note = "w = 1 + (i mod 4), row i counted from 1"),
  sleep_weights_int = m("sleepstudy", "Reaction ~ Days + (1|Subject)", nd_sleep, weights = "w", extra = w_sleep,
                        note = "w = 1 + (i mod 4), row i counted from 1"),
  sleep_offset = m("sleepstudy", "Reaction ~ Days + offset(0.5*Days^2) + (Days|Subject)", nd_sleep),
  sleep_unbalanced = m("sleepstudy", "Reaction ~ Days + (Days|Subject)", nd_sleep, keep = i_sleep %% 7 != 0,
                       note = "rows i with i mod 7 = 0 removed, row i counted from 1"),
  sleep_missing = m("sleepstudy", "Reaction ~ Days + (Days|Subject)", nd_sleep, extra = list(Reaction = missing_reaction),
                    note = paste("Reaction missing in rows", paste(missing_rows, collapse = ", "), "(counted from 1)")),
  sleep_rank_deficient = m("sleepstudy", "Reaction ~ Days + I(2*Days) + (1|Subject)", nd_sleep,
                           note = "the second column of Days is dropped; coef_names lists those kept, dropped the others"),
  sleep_interaction = m("sleepstudy", "Reaction ~ Days + (Days|Subject) + (1|Subject:phase)",
                        c(nd_sleep, list(phase = c("early", "late", "late", "early"))),
                        extra = list(phase = ifelse(D$sleepstudy$Days <= 4, "early", "late")),
                        note = "phase = early where Days <= 4, else late", tags = "nested"),
  dyestuff = m("Dyestuff", "Yield ~ 1 + (1|Batch)", nd_batch),
  dyestuff2 = m("Dyestuff2", "Yield ~ 1 + (1|Batch)", nd_batch, tags = "singular"),
  penicillin = m("Penicillin", "diameter ~ 1 + (1|plate) + (1|sample)", nd_pen, tags = "crossed"),
  penicillin_weights_offset = m("Penicillin", "diameter ~ 1 + (1|plate) + (1|sample)", nd_pen, weights = "w", offset = "off",
    extra = list(w = 0.5 + (i_pen %% 5) / 4, off = ((7 * i_pen) %% 11) / 10), tags = "crossed",
    note = "w = 0.5 + (i mod 5)/4, off = ((7 i) mod 11)/10, row i counted from 1; lme4's predict(newdata) leaves an offset= argument out"),
  pastes = m("Pastes", "strength ~ 1 + (1|batch) + (1|batch:cask)", nd_pastes[1:2], tags = "nested"),
  pastes_slash = m("Pastes", "strength ~ 1 + (1|batch/cask)", nd_pastes[1:2], note = "the model pastes: other group and level names", tags = "nested"),
  pastes_sample = m("Pastes", "strength ~ 1 + (1|batch) + (1|sample)", nd_pastes[c(1, 3)], note = "the model pastes: sample = batch:cask", tags = "nested"),
  pastes_interaction = m("Pastes", "strength ~ 1 + (1|batch:cask)", nd_pastes[1:2]),
  cake = m("cake", "angle ~ recipe*temperature + (1|recipe:replicate)", nd_cake[c(1, 2, 4)], note = "temperature is ordered: contr.poly"),
  cake_temp = m("cake", "angle ~ recipe*temp + (1|recipe:replicate)", nd_cake[c(1, 3, 4)]),
  cake_slash = m("cake", "angle ~ recipe + temp + (1|replicate/recipe)", nd_cake[c(1, 3, 4)], tags = "nested"),
  machines_slope = m("Machines", "score ~ Machine + (Machine|Worker)", nd_mach),
  machines_slope_sum = m("Machines", "score ~ Machine + (Machine|Worker)", nd_mach, list(Machine = "contr.sum"),
                         note = "contrasts= does not reach the random term: its columns stay treatment-coded"),
  machines_cell = m("Machines", "score ~ Machine + (0+Machine|Worker)", nd_mach, note = "the fit of machines_slope, other coding of the random term"),
  machines_nested = m("Machines", "score ~ Machine + (1|Worker/Machine)", nd_mach, tags = "nested"),
  items = m("items", "y ~ x + (1+x|subj) + (1|item)", nd_items, tags = "crossed"),
  items_uncorr = m("items", "y ~ x + (x||subj) + (x||item)", nd_items, tags = c("crossed", "singular")),
  schools = m("schools", "y ~ 1 + (1|school/class) + (1|rater)",
              list(school = c("S01", "S05", "S09", "NEWLEVEL"), class = c("a", "b", "d", "a"), rater = c("r1", "r5", "r8", "NEWLEVEL")),
              tags = c("nested", "crossed")),
  flat_corr = m("flat", "y_corr ~ x + (x|g)", nd_flat, note = "correlation +1", tags = "singular"),
  flat_neg = m("flat", "y_neg ~ x + (x|g)", nd_flat, note = "correlation -1", tags = "singular"),
  flat_noslope = m("flat", "y_noslope ~ x + (x||g)", nd_flat, note = "slope variance 0", tags = "singular"),
  flat_noslope_vector = m("flat", "y_noslope ~ x + (x|g)", nd_flat, note = "small slope, correlation +1 or -1", tags = "singular"),
  flat_none = m("flat", "y_none ~ x + (x|g)", nd_flat, note = "the whole covariance matrix vanishes", tags = "singular"))

# ---- the optimum -----------------------------------------------------------------------------------------------------

gradient <- function(f, x, step = 0.03, rounds = 5) {      # central differences, Richardson-extrapolated
  vapply(seq_along(x), function(j) {
    h <- step * max(abs(x[j]), 0.3); e <- replace(numeric(length(x)), j, 1)
    a <- vapply(seq_len(rounds), function(r) { s <- h / 2^(r - 1); (f(x + s * e) - f(x - s * e)) / (2 * s) }, 0)
    for (r in seq_len(rounds - 1)) a <- (4^r * a[-1] - a[-length(a)]) / (4^r - 1)
    a
  }, 0)
}

hessian <- function(f, x) {
  H <- vapply(seq_along(x), function(j) {
    e <- replace(numeric(length(x)), j, 1e-3 * max(abs(x[j]), 0.3))
    (gradient(f, x + e) - gradient(f, x - e)) / (2 * sum(e))
  }, numeric(length(x)))
  H <- matrix(H, length(x)); (H + t(H)) / 2
}

newton <- function(fn, par, free) {                        # polish the free entries; keeps the point of smallest gradient
  if (!any(free)) return(list(par = par, value = fn(par), grad = 0))
  f <- function(z) fn(replace(par, free, z))
  x <- par[free]; best <- list(x = x, value = f(x), g = gradient(f, x))
  for (it in 1:12) {
    if (max(abs(best$g)) < 1e-10) break
    E <- eigen(hessian(f, best$x), symmetric = TRUE)
    step <- -drop(E$vectors %*% (crossprod(E$vectors, best$g) / pmax(abs(E$values), 1e-6)))
    x <- best$x + step; v <- f(x)
    if (!is.finite(v) || v > best$value + 1e-12 * abs(best$value)) break
    g <- gradient(f, x)
    if (max(abs(g)) >= max(abs(best$g))) break
    best <- list(x = x, value = v, g = g)
  }
  list(par = replace(par, free, best$x), value = best$value, grad = max(abs(best$g)))
}

column_signs <- function(cnms) {                           # for each theta: the column of its T, and whether it is the diagonal
  out <- list(); k <- 0
  for (cn in cnms) for (j in seq_along(cn)) { k <- k + 1; out[[k]] <- data.frame(col = k, diag = j:length(cn) == j) }
  do.call(rbind, out)
}

optimum <- function(devfun, lower, cnms) {
  sg <- column_signs(cnms)
  rectify <- function(p) { for (k in unique(sg$col)) { i <- sg$col == k; if (p[i & sg$diag] < 0) p[i] <- -p[i] }; p + 0 }
  start0 <- ifelse(sg$diag, 1, 0); values <- list(); pars <- list()
  attempt <- function(name, expr) {
    r <- tryCatch(suppressWarnings(expr), error = function(e) NULL)
    if (!is.null(r)) { v <- devfun(r); values[[name]] <<- c(values[[name]], v); pars[[length(pars) + 1]] <<- list(par = rectify(r), value = v) }
  }
  for (scale in c(1, 0.2, 4)) {
    s <- scale * start0 + ifelse(sg$diag, 0, if (scale == 1) 0 else 0.1)
    if (length(s) > 1) attempt("bobyqa", minqa::bobyqa(s, devfun, lower = lower, control = list(rhobeg = 0.1 * scale, rhoend = 1e-9, maxfun = 2e4))$par)
    attempt("nlminb", nlminb(s, devfun, lower = lower, control = list(rel.tol = 1e-14, x.tol = 1e-11, eval.max = 5000, iter.max = 2000))$par)
    attempt("NelderMead", Nelder_Mead(devfun, s, lower = lower, upper = rep(Inf, length(s)),
                                      control = list(maxfun = 2e4, FtolAbs = 1e-12, FtolRel = 1e-15, XtolRel = 1e-10))$par)
  }
  best <- pars[[which.min(vapply(pars, `[[`, 0, "value"))]]
  small <- abs(best$par) < 0.02
  fixed <- unique(list(rep(FALSE, length(small)), small & sg$diag, small))
  cand <- lapply(fixed, function(z) newton(devfun, replace(best$par, z, 0), !z))
  vals <- vapply(cand, `[[`, 0, "value")
  ok <- which(vals <= min(vals) + 1e-11 * abs(min(vals)))  # among equals: the one with the most exact zeros
  pick <- cand[[max(ok)]]
  pick$par <- rectify(pick$par)
  pick$value <- devfun(pick$par)
  list(par = pick$par, value = pick$value, grad = pick$grad, before_polish = best$value, by_optimizer = vapply(values, min, 0))
}

# ---- one fit ---------------------------------------------------------------------------------------------------------

log_text <- character()                                    # R's warnings and messages of the current model
quietly <- function(expr) withCallingHandlers(expr,
  warning = function(w) { log_text <<- c(log_text, conditionMessage(w)); invokeRestart("muffleWarning") },
  message = function(w) { log_text <<- c(log_text, trimws(conditionMessage(w))); invokeRestart("muffleMessage") })

model_data <- function(M) {
  d <- D[[M$dataset]]
  for (v in names(M$extra)) d[[v]] <- if (is.character(M$extra[[v]])) factor(M$extra[[v]]) else M$extra[[v]]
  if (!is.null(M$keep)) d <- d[M$keep, , drop = FALSE]
  d
}

lmer_call <- function(M, REML) {
  cl <- list(quote(lmer), formula = as.formula(M$formula), data = as.name(M$dataset))
  if (!REML) cl$REML <- FALSE
  if (!is.null(M$weights)) cl$weights <- as.name(M$weights)
  if (!is.null(M$offset)) cl$offset <- as.name(M$offset)
  if (!is.null(M$contrasts)) cl$contrasts <- as.call(c(list(quote(list)), M$contrasts))
  as.call(cl)
}

polished <- function(M, REML) {                            # lme4's modular steps, our optimum
  mc <- lmer_call(M, REML); assign(M$dataset, model_data(M), envir = globalenv())
  lf <- mc; lf[[1]] <- quote(lme4::lFormula); lf$REML <- REML; lf <- eval(lf, globalenv())
  devfun <- do.call(lme4::mkLmerDevfun, c(lf[c("fr", "X", "reTrms", "REML")], list(control = lmerControl())))
  lower <- environment(devfun)$lower
  opt <- optimum(function(th) devfun(as.numeric(th)), lower, lf$reTrms$cnms)
  derivs <- lme4:::deriv12(devfun, opt$par); devfun(opt$par)
  conv <- lme4:::checkConv(derivs, opt$par, ctrl = lmerControl()$checkConv, lbound = lower)
  o <- list(par = opt$par, fval = opt$value, feval = 1L, conv = 0L, message = NULL)
  attr(o, "optimizer") <- "nloptwrap"; attr(o, "control") <- list(); attr(o, "warnings") <- NULL; attr(o, "derivs") <- derivs
  fit <- mkMerMod(environment(devfun), o, lf$reTrms, fr = lf$fr, mc = mc, lme4conv = conv)
  list(fit = fit, devfun = devfun, opt = opt, p_full = ncol(lf$X) + length(attr(lf$X, "col.dropped")), dropped = names(attr(lf$X, "col.dropped")))
}

vec <- function(x, digits = 15) I(unname(signif(as.numeric(x), digits)))
mat <- function(x, digits = 15) I(unname(signif(as.matrix(x), digits)))
strs <- function(x) I(as.character(x))

terms_of <- function(fit) {                                # per term: group, columns, levels, positions in b
  cn <- getME(fit, "cnms"); fl <- getME(fit, "flist"); as <- attr(fl, "assign"); Gp <- getME(fit, "Gp")
  lapply(seq_along(cn), function(i) list(group = names(cn)[i], columns = cn[[i]], levels = levels(fl[[as[i]]]), at = (Gp[i] + 1):Gp[i + 1]))
}

varcorr_of <- function(fit) {
  th <- getME(fit, "theta"); s <- sigma(fit); k <- 0
  lapply(terms_of(fit), function(t) {
    p <- length(t$columns); T <- matrix(0, p, p); n <- p * (p + 1) / 2
    T[lower.tri(T, TRUE)] <- th[k + seq_len(n)]; k <<- k + n
    V <- s^2 * tcrossprod(T); sd <- sqrt(diag(V)); R <- V / outer(sd, sd); R[!is.finite(R)] <- NA; diag(R) <- 1
    list(group = t$group, columns = strs(t$columns), n_levels = length(t$levels), sd = vec(sd), corr = mat(R), cov = mat(V))
  })
}

ranef_of <- function(fit) {
  b <- as.numeric(getME(fit, "b")); Lt <- as.matrix(getME(fit, "Lambdat")); Zt <- as.matrix(getME(fit, "Zt"))
  C <- Lt %*% Zt %*% (weights(fit) * t(Lt %*% Zt)); diag(C) <- diag(C) + 1
  V <- sigma(fit)^2 * t(Lt) %*% solve(C, Lt)               # variance of b given beta and theta
  lapply(terms_of(fit), function(t) {
    p <- length(t$columns); l <- length(t$levels)
    cv <- lapply(seq_len(l), function(j) { i <- t$at[(j - 1) * p + seq_len(p)]; mat(V[i, i, drop = FALSE], 9) })
    list(group = t$group, columns = strs(t$columns), n_levels = l, levels = strs(t$levels),
         b = mat(matrix(b[t$at], l, p, byrow = TRUE), 10), condvar = cv)
  })
}

satterthwaite_of <- function(fit, devfun) {
  out <- tryCatch({
    S <- coef(summary(lmerTest:::as_lmerModLT(fit, devfun), ddf = "Satterthwaite"))
    if (!nrow(S)) NULL else list(estimate = vec(S[, 1]), se = vec(S[, 2]), df = vec(S[, 3]), t = vec(S[, 4]), p = vec(S[, 5]))
  }, error = function(e) { log_text <<- c(log_text, paste("satterthwaite:", conditionMessage(e))); NULL })
  devfun(getME(fit, "theta")); out
}

new_frame <- function(M, d) {
  nd <- as.data.frame(M$newdata, stringsAsFactors = FALSE)
  for (v in names(nd)) if (is.factor(d[[v]])) nd[[v]] <- factor(nd[[v]], levels = union(levels(d[[v]]), if ("NEWLEVEL" %in% nd[[v]]) "NEWLEVEL"), ordered = is.ordered(d[[v]]))
  nd
}

predictions <- function(M, fit, re.form) tryCatch(
  vec(predict(fit, newdata = new_frame(M, model_data(M)), re.form = re.form, allow.new.levels = TRUE), 14),
  error = function(e) { log_text <<- c(log_text, paste("predict:", conditionMessage(e))); NULL })

fit_json <- function(M, P, REML) {
  fit <- P$fit; V <- as.matrix(vcov(fit)); ll <- logLik(fit); cmp <- getME(fit, "devcomp")$cmp
  if (!length(fixef(fit))) { stopifnot(abs(cmp["ldRX2"]) < 1e-200); cmp["ldRX2"] <- 0 }     # p = 0: lme4 leaves it uninitialised
  pieces <- c("ldL2", "ldRX2", "wrss", "ussq", "pwrss", if (REML) "REML" else "dev", "sigmaML", "sigmaREML")
  list(REML = REML, n = nobs(fit), p = length(fixef(fit)), p_full = P$p_full, dropped = strs(P$dropped), q = as.integer(getME(fit, "q")),
       n_theta = length(getME(fit, "theta")), coef_names = strs(names(fixef(fit))), beta = vec(fixef(fit)), vcov = mat(V), se = vec(sqrt(diag(V))),
       theta_names = strs(names(getME(fit, "theta"))), theta = vec(getME(fit, "theta")), sigma = sigma(fit), varcorr = varcorr_of(fit),
       logLik = as.numeric(ll), criterion = -2 * as.numeric(ll), AIC = AIC(fit), BIC = BIC(fit), df = attr(ll, "df"), df_residual = df.residual(fit),
       singular = isSingular(fit), grad_max = signif(P$opt$grad, 2), devcomp = as.list(signif(cmp[pieces], 15)), ranef = ranef_of(fit),
       fitted_head = vec(head(fitted(fit), 10), 12), resid_head = vec(head(residuals(fit), 10), 12),
       pearson_head = vec(head(residuals(fit, type = "pearson"), 10), 12), fitted_sum = sum(fitted(fit)), fitted_sumsq = sum(fitted(fit)^2),
       satterthwaite = quietly(satterthwaite_of(fit, P$devfun)),
       pred_newdata = quietly(predictions(M, fit, NULL)), pred_newdata_fixed = quietly(predictions(M, fit, ~0)))
}

model_json <- function(id) {
  M <- MODELS[[id]]; fits <- list(); warn <- list(); used <- NULL
  for (kind in c("REML", "ML")) {
    log_text <<- character()
    P <- quietly(polished(M, kind == "REML"))
    fits[[kind]] <- fit_json(M, P, kind == "REML")
    warn[[kind]] <- strs(unique(log_text))
    used <- attr(getME(P$fit, "X"), "contrasts")
    cat(sprintf("%-26s %-4s crit %.10f  polish %9.2e  grad %7.1e %s theta %s\n", id, kind, P$opt$value, P$opt$value - P$opt$before_polish, P$opt$grad,
                if (isSingular(P$fit)) "SINGULAR" else "", paste(signif(P$opt$par, 6), collapse = " ")))
  }
  extra <- M$extra; if (!is.null(M$keep)) extra$keep <- as.integer(M$keep)
  d <- model_data(M)
  list(dataset = M$dataset, formula = M$formula, contrasts = if (is.null(M$contrasts)) structure(list(), names = character()) else M$contrasts,
       contrasts_used = if (is.null(used)) structure(list(), names = character()) else used, weights = M$weights, offset = M$offset,
       extra_columns = if (is.null(extra)) structure(list(), names = character()) else lapply(extra, I), tags = strs(M$tags), note = M$note,
       newdata = lapply(M$newdata, I), n_dropped = nrow(d) - fits$REML$n, warnings = warn, fits = fits)
}

# ---- printed summaries, expansions of bars ---------------------------------------------------------------------------

summary_json <- function(id, kind, lmertest) {
  M <- MODELS[[id]]; REML <- kind == "REML"
  P <- suppressMessages(suppressWarnings(polished(M, REML)))
  plain <- suppressMessages(suppressWarnings(eval(`[[<-`(lmer_call(M, REML), 1, quote(lme4::lmer)), globalenv())))
  lines <- function(x, ...) strs(suppressMessages(suppressWarnings(capture.output(print(summary(x), ...)))))
  out <- list(model = id, kind = kind, polished = lines(P$fit, correlation = FALSE))
  default <- lines(plain, correlation = FALSE)
  if (!identical(default, out$polished)) out$lme4_default <- default
  if (lmertest) out$lmerTest <- lines(lmerTest:::as_lmerModLT(P$fit, P$devfun))
  out
}

SUMMARIES <- list(pulp_sum = "REML", irrigation_full_sum = "REML", sleep_slope = c("REML", "ML"), dyestuff2 = "REML", penicillin = "REML",
                  pastes = "REML", cake_temp = "REML", eggs = "REML")

summaries_json <- function() {
  out <- list()
  for (id in names(SUMMARIES)) for (kind in SUMMARIES[[id]]) out[[paste0(id, "_", kind)]] <- summary_json(id, kind, id == "sleep_slope")
  out
}

BARS <- c("y ~ x + (1|g)", "y ~ x + (x|g)", "y ~ x + (0+x|g)", "y ~ x + (-1+x|g)", "y ~ x + (x||g)", "y ~ x + (x+z||g)", "y ~ x + (0+x+z||g)",
          "y ~ x + (x*z||g)", "y ~ x + (f||g)", "y ~ x + (x+f||g)", "y ~ x + (0+f||g)", "y ~ x + (f|g)", "y ~ x + (0+f|g)", "y ~ x + (x:f|g)",
          "y ~ x + (1|a/b)", "y ~ x + (1|a/b/c)", "y ~ x + (0+x|a/b)", "y ~ x + (x|a/b)", "y ~ x + (x||a/b)", "y ~ x + (1|a:b)", "y ~ x + (1|a) + (1|b:a)",
          "y ~ x + (1|a:b:c)", "y ~ x + (1|g) + (0+x|g)", "y ~ x + (1|f:g)", "y ~ x + (1|f) + (x|g)", "y ~ x + (I(x^2)|g)", "y ~ x + (1+x|g) + (1|a)",
          "y ~ x + (1|a) + (1|f)", "y ~ x + (1|a) + (1|f) + (x|g)", "y ~ x + (x||a) + (x||g)", "y ~ x + (x||g) + (x||a)")

double_bar_json <- function() {
  seed(20240104)
  i <- 0:59
  d <- data.frame(y = round(rnorm(60), 3), x = round(rnorm(60), 3), z = round(rnorm(60), 3), f = factor(c("f1", "f2", "f3")[i %% 3 + 1]),
                  g = factor(sprintf("g%d", i %% 7 + 1)), a = factor(sprintf("a%d", i %/% 20 + 1)), b = factor(sprintf("b%d", i %/% 10 %% 2 + 1)),
                  c = factor(sprintf("c%d", i %/% 5 %% 2 + 1)))
  one <- function(f) {
    bars <- lme4::findbars(as.formula(f))
    rt <- lme4::mkReTrms(bars, d); cn <- rt$cnms
    list(formula = f, bars = strs(vapply(bars, function(b) paste(deparse(b, 500L), collapse = ""), "")), groups = strs(names(cn)),
         columns = unname(lapply(cn, strs)), n_levels = I(unname(vapply(rt$flist, nlevels, 0L)[attr(rt$flist, "assign")])), n_theta = length(rt$theta))
  }
  list(note = "bars: findbars() in the order written, double bars and slashes expanded; groups = names(cnms), columns = cnms in lme4's order: as written if the numbers of levels never increase, else rev(order(levels)): decreasing, and ties reversed",
       data = lapply(d, function(v) I(if (is.factor(v)) as.character(v) else v)), expansions = lapply(BARS, one))
}

# ---- the file --------------------------------------------------------------------------------------------------------

SOURCES <- c(sleepstudy = "lme4", Dyestuff = "lme4", Dyestuff2 = "lme4", Penicillin = "lme4", Pastes = "lme4", cake = "lme4",
             pulp = "Sheldon (1960), in Faraway", irrigation = "Faraway", eggs = "Bliss (1967), in Faraway",
             Machines = "Milliken & Johnson (1992), R package nlme; Worker as an unordered factor",
             items = "simulated", schools = "simulated", flat = "simulated")

dataset_json <- function(name) {
  d <- D[[name]]
  for (v in d) if (is.numeric(v)) stopifnot(as.numeric(sprintf("%.15g", v)) == v)      # the file holds the exact data
  describe <- function(v) if (is.ordered(v)) list(type = "ordered", levels = strs(levels(v))) else
    if (is.factor(v)) list(type = "factor", levels = strs(levels(v))) else list(type = "numeric")
  list(nrow = nrow(d), ncol = ncol(d), source = SOURCES[[name]], columns = lapply(d, describe),
       data = lapply(d, function(v) I(if (is.factor(v)) as.character(v) else v)))
}

if (length(ONLY)) { for (id in ONLY) { j <- model_json(id); print(j$warnings) }; quit() }

versions <- sapply(c("lme4", "lmerTest", "nlme", "minqa", "Matrix", "jsonlite"), function(p) as.character(packageVersion(p)), simplify = FALSE)
result <- list(meta = list(R = R.version.string, packages = versions, script = "tests/reference/make_reference.R"),
               datasets = sapply(names(D), dataset_json, simplify = FALSE),
               models = sapply(names(MODELS), model_json, simplify = FALSE))
result$summaries <- summaries_json()
result$double_bar <- double_bar_json()
text <- toJSON(result, auto_unbox = TRUE, digits = NA, null = "null", na = "null", matrix = "rowmajor")
text <- gsub('"(models|datasets|summaries|double_bar)":', '\n"\\1":', text)
for (id in c(names(D), names(MODELS), names(result$summaries))) text <- gsub(paste0('"', id, '":{'), paste0('\n"', id, '":{'), text, fixed = TRUE)
writeLines(text, OUT)
cat(OUT, file.size(OUT), "bytes\n")
