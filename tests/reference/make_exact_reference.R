# Exact tests of one variance component by RLRsim: what tests/test_exact.py compares with.
#   Rscript tests/reference/make_exact_reference.R      (from the repository root; writes exact_reference.json, about 10 s)
# Reads the data sets of reference.json. Packages: RLRsim (Debian: r-cran-rlrsim), lme4, jsonlite.

invisible(Sys.setlocale("LC_ALL", "C.UTF-8"))
options(contrasts = c("contr.treatment", "contr.poly"))
suppressPackageStartupMessages({ library(lme4); library(RLRsim); library(jsonlite) })
SETS <- fromJSON("tests/reference/reference.json")$datasets
OUT <- "tests/reference/exact_reference.json"
NSIM <- 100000

# full, reduced, null: the fits mA, m and m0 of RLRsim; null alone is an lm. rows: which ones to keep, counted from 1.
unbalanced <- which(seq_len(180) %% 7 %in% c(1, 2, 4) | seq_len(180) %% 23 == 0)
RLRT <- list(
  pulp = list(dataset = "pulp", full = "bright ~ 1 + (1|operator)"),
  irrigation = list(dataset = "irrigation", full = "yield ~ irrigation*variety + (1|field)"),
  sleep_unbalanced = list(dataset = "sleepstudy", full = "Reaction ~ Days + (0+Days|Subject)", rows = unbalanced[seq(1, 79, 2)]),
  eggs_technician = list(dataset = "eggs", full = "Fat ~ 1 + (1|Lab) + (1|Lab:Technician)",
                         reduced = "Fat ~ 1 + (1|Lab:Technician)", null = "Fat ~ 1 + (1|Lab)"),
  eggs_lab = list(dataset = "eggs", full = "Fat ~ 1 + (1|Lab) + (1|Lab:Technician)",
                  reduced = "Fat ~ 1 + (1|Lab)", null = "Fat ~ 1 + (1|Lab:Technician)"),
  sleep_slope = list(dataset = "sleepstudy", full = "Reaction ~ Days + (1|Subject) + (0+Days|Subject)",
                     reduced = "Reaction ~ Days + (0+Days|Subject)", null = "Reaction ~ Days + (1|Subject)", rows = seq(2, 180, 4)))
LRT <- list(
  pulp = list(dataset = "pulp", full = "bright ~ 1 + (1|operator)", null = "bright ~ 1"),
  irrigation_variety = list(dataset = "irrigation", full = "yield ~ irrigation + variety + (1|field)", null = "yield ~ irrigation"),
  irrigation_both = list(dataset = "irrigation", full = "yield ~ irrigation + variety + (1|field)", null = "yield ~ 1"),
  sleep_unbalanced = list(dataset = "sleepstudy", full = "Reaction ~ Days + I(Days^2) + (0+Days|Subject)",
                          null = "Reaction ~ Days", rows = unbalanced[seq(1, 79, 2)]))

frame_of <- function(M) {
  described <- SETS[[M$dataset]]
  column <- function(v, kind) if (kind$type == "numeric") as.numeric(v) else factor(v, levels = kind$levels)
  data <- as.data.frame(Map(column, described$data[names(described$columns)], described$columns))
  if (is.null(M$rows)) data else droplevels(data[M$rows, ])
}

control <- lmerControl(optimizer = "bobyqa", optCtrl = list(rhoend = 1e-9))
mixed <- function(formula, data, REML) lmer(as.formula(formula), data, REML = REML, control = control)
result <- function(M, test)
  c(M, list(statistic = unname(test$statistic), p = test$p.value, share_zero = mean(test$sample == 0),
            quantiles = unname(quantile(test$sample, c(.8, .9, .95, .99)))))

rlrt <- function(M) {
  data <- frame_of(M)
  fits <- lapply(M[intersect(c("full", "reduced", "null"), names(M))], mixed, data, TRUE)
  result(M, if (is.null(M$null)) exactRLRT(fits$full, nsim = NSIM, seed = 1)
            else exactRLRT(fits$reduced, fits$full, fits$null, nsim = NSIM, seed = 1))
}
lrt <- function(M) {
  data <- frame_of(M)
  result(M, exactLRT(mixed(M$full, data, FALSE), lm(as.formula(M$null), data), nsim = NSIM, seed = 1))
}

versions <- sapply(c("RLRsim", "lme4", "Matrix"), function(p) as.character(packageVersion(p)))
meta <- c(list(R = as.character(getRversion()), nsim = NSIM), as.list(versions))
all <- list(meta = meta, rlrt = lapply(RLRT, rlrt), lrt = lapply(LRT, lrt))
writeLines(toJSON(all, digits = 15, auto_unbox = TRUE, pretty = FALSE), OUT)
