"""Every loss for wrong labels beside a naive float64 reference, from its definition, one sample a time.

A reference takes the softmax p of one sample and its label, and gives a number; a loss that is not a function
of p takes the logits. ``soft`` is what a soft label means: "linear" (the mean over classes), or a reference
of its own.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import torch

from etfhead import losses

LOG_ZERO = math.log(1e-4)


@dataclass
class Case:
    name: str
    function: Any
    module: Any
    reference: Any
    options: dict = field(default_factory=dict)
    soft: Any = "linear"
    of_logits: bool = False

    def __repr__(self):
        return self.name

    def naive(self, logits, target):
        rows = []
        for z, y in zip(logits, target, strict=True):
            x = z if self.of_logits else z.exp() / z.exp().sum()
            if target.ndim == 1:
                rows.append(self.reference(x, int(y), **self.options))
            elif self.soft == "linear":
                rows.append(sum(y[k] * self.reference(x, k, **self.options) for k in range(len(z))))
            else:
                rows.append(self.soft(x, y, **self.options))
        return torch.stack(rows)


def cross_entropy(p, y):
    return -torch.log(p[y])


def label_smoothing(p, y, label_smoothing=0.1):
    t = torch.full_like(p, label_smoothing / len(p))
    t[y] += 1 - label_smoothing
    return -(t * p.log()).sum()


def label_relaxation(p, y, alpha=0.1):
    if p[y] >= 1 - alpha:
        return 0.0 * p[y]
    r = alpha * p / (1 - p[y])
    r = torch.cat([r[:y], torch.full_like(r[:1], 1 - alpha), r[y + 1 :]])
    return (r * (r / p).log()).sum()


def gce(p, y, q=0.7, truncation=None):
    x = p[y] if truncation is None or p[y] > truncation else truncation + 0.0 * p[y]
    return (1 - x**q) / q


def mae(p, y):
    e = torch.zeros_like(p)
    e[y] = 1
    return (p - e).abs().sum()


def rce(p, y, log_zero=LOG_ZERO):
    log_e = torch.full_like(p, log_zero)
    log_e[y] = 0
    return -(p * log_e).sum()


def sce(p, y, alpha=0.1, beta=1.0, log_zero=LOG_ZERO):
    return alpha * cross_entropy(p, y) + beta * rce(p, y, log_zero)


def nce(p, y, gamma=0.0):
    losses = [-((1 - x) ** gamma) * x.log() for x in p]
    return losses[y] / sum(losses)


def nnce(p, y, gamma=0.0, min_prob=1e-7):
    largest = -((1 - min_prob) ** gamma) * math.log(min_prob)
    below = [largest + (1 - x) ** gamma * x.log() for x in p.clamp(min=min_prob)]
    return 1 - below[y] / sum(below)


def agce(p, y, a=0.6, q=0.6):
    return ((a + 1) ** q - (a + p[y]) ** q) / q


def aul(p, y, a=5.5, q=3.0):
    return ((a - p[y]) ** q - (a - 1) ** q) / q


def ael(p, y, a=2.5):
    return torch.exp(-p[y] / a)


def amse(p, y, a=30.0):
    e = torch.zeros_like(p)
    e[y] = a
    return ((e - p) ** 2).mean()


def apl(p, y, alpha=1.0, beta=1.0):
    return alpha * nce(p, y) + beta * rce(p, y)


def anl(p, y, alpha=5.0, beta=5.0, gamma=0.0, min_prob=1e-7):
    return alpha * nce(p, y, gamma) + beta * nnce(p, y, gamma, min_prob)


def jal(p, y, alpha=1.0, beta=1.0, a=30.0, gamma=0.0):
    return alpha * nce(p, y, gamma) + beta * amse(p, y, a)


def bootstrapping(p, y, mode="hard", beta=None):
    if mode == "soft":
        beta = 0.95 if beta is None else beta
        own = p
    else:
        beta = 0.8 if beta is None else beta
        own = torch.zeros_like(p)
        own[p.argmax()] = 1
    e = torch.zeros_like(p)
    e[y] = 1
    return -((beta * e + (1 - beta) * own) * p.log()).sum()


def taylor(p, y, order=2):
    return sum((1 - p[y]) ** j / j for j in range(1, order + 1))


def phuber(p, y, tau=2.0):
    return -tau * p[y] + math.log(tau) + 1 if p[y] <= 1 / tau else -p[y].log()


def poly(p, y, epsilon=2.0):
    return -p[y].log() + epsilon * (1 - p[y])


def bi_tempered_soft(z, t, t1=0.8, t2=1.2):
    # Lambda by bisection, and one Newton step on it for the gradient.
    def p_of(shift):
        return (1 + (t2 - 1) * (shift - z)) ** (-1 / (t2 - 1)) if t2 > 1 else torch.exp(z - shift)

    with torch.no_grad():
        low, high = z.max(), z.max() + (len(z) ** (t2 - 1) - 1) / (t2 - 1) if t2 > 1 else z.logsumexp(0)
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (middle, high) if p_of(middle).sum() > 1 else (low, middle)
        slope = (p_of(high) ** t2).sum()
    p = p_of(high + (p_of(high).sum() - 1) / slope)

    def log_t(x):
        return x.log() if t1 == 1 else (x ** (1 - t1) - 1) / (1 - t1)

    loss = -(t ** (2 - t1) - p ** (2 - t1)).sum() / (2 - t1)
    for k in range(len(z)):
        if t[k] > 0:
            loss = loss + t[k] * (log_t(t[k]) - log_t(p[k]))
    return loss


def bi_tempered(z, y, **options):
    return bi_tempered_soft(z, torch.eye(len(z), dtype=z.dtype)[y], **options)


def js_soft(p, t, weights=(0.7, 0.3)):
    m = weights[0] * t + weights[1] * p

    def kl(a):
        return sum(x * (x / n).log() for x, n in zip(a, m, strict=True) if x > 0)

    return (weights[0] * kl(t) + weights[1] * kl(p)) / (-(1 - weights[0]) * math.log(1 - weights[0]))


def js(p, y, **options):
    return js_soft(p, torch.eye(len(p), dtype=p.dtype)[y], **options)


def dot(z, y, target_logit=1.0):
    return -z[y] / target_logit


def case(name, function, module, reference, soft="linear", of_logits=False, **options):
    return Case(name, function, module, reference, options, soft, of_logits)


L = losses
CASES = [
    case("ls", L.label_smoothing_cross_entropy, L.LabelSmoothingCrossEntropyLoss, label_smoothing),
    case(
        "nls",
        L.label_smoothing_cross_entropy,
        L.LabelSmoothingCrossEntropyLoss,
        label_smoothing,
        label_smoothing=-2.0,
    ),
    case("lr", L.label_relaxation, L.LabelRelaxationLoss, label_relaxation),
    case("lr_wide", L.label_relaxation, L.LabelRelaxationLoss, label_relaxation, alpha=0.6),
    case("gce", L.generalized_cross_entropy, L.GeneralizedCrossEntropyLoss, gce),
    case("gce_q", L.generalized_cross_entropy, L.GeneralizedCrossEntropyLoss, gce, q=0.05),
    case(
        "gce_cut",
        L.generalized_cross_entropy,
        L.GeneralizedCrossEntropyLoss,
        gce,
        truncation=0.3,
    ),
    case("mae", L.mean_absolute_error, L.MeanAbsoluteErrorLoss, mae),
    case("rce", L.reverse_cross_entropy, L.ReverseCrossEntropyLoss, rce),
    case(
        "sce", L.symmetric_cross_entropy, L.SymmetricCrossEntropyLoss, sce, alpha=6.0, beta=0.1, log_zero=-4.0
    ),
    case("nce", L.normalized_cross_entropy, L.NormalizedCrossEntropyLoss, nce),
    case("nfl", L.normalized_cross_entropy, L.NormalizedCrossEntropyLoss, nce, gamma=0.5),
    case("nfl_2", L.normalized_cross_entropy, L.NormalizedCrossEntropyLoss, nce, gamma=2.0),
    case("nnce", L.normalized_negative_loss, L.NormalizedNegativeLoss, nnce),
    case("nnfl", L.normalized_negative_loss, L.NormalizedNegativeLoss, nnce, gamma=0.5, min_prob=1e-3),
    case("agce", L.asymmetric_generalized_cross_entropy, L.AsymmetricGeneralizedCrossEntropyLoss, agce),
    case("aul", L.asymmetric_unhinged, L.AsymmetricUnhingedLoss, aul),
    case("ael", L.asymmetric_exponential, L.AsymmetricExponentialLoss, ael),
    case("amse", L.asymmetric_mean_square, L.AsymmetricMeanSquareLoss, amse),
    case("apl", L.active_passive, L.ActivePassiveLoss, apl, alpha=10.0, beta=0.1),
    case("anl", L.active_negative, L.ActiveNegativeLoss, anl),
    case("anl_fl", L.active_negative, L.ActiveNegativeLoss, anl, alpha=10.0, beta=1.0, gamma=0.5),
    case("jal", L.joint_asymmetric, L.JointAsymmetricLoss, jal, alpha=5.0, a=20.0),
    case("boot_soft", L.bootstrapping, L.BootstrappingLoss, bootstrapping, mode="soft"),
    case("jal_fl", L.joint_asymmetric, L.JointAsymmetricLoss, jal, gamma=0.5),
    case("boot_hard", L.bootstrapping, L.BootstrappingLoss, bootstrapping, beta=0.6),
    case("taylor", L.taylor_cross_entropy, L.TaylorCrossEntropyLoss, taylor),
    case("taylor6", L.taylor_cross_entropy, L.TaylorCrossEntropyLoss, taylor, order=6),
    case("phuber", L.huberized_cross_entropy, L.HuberizedCrossEntropyLoss, phuber, tau=4.0),
    case("poly", L.poly_cross_entropy, L.PolyCrossEntropyLoss, poly),
    case("bitempered", L.bi_tempered, L.BiTemperedLoss, bi_tempered, bi_tempered_soft, True),
    case(
        "bitempered_heavy",
        L.bi_tempered,
        L.BiTemperedLoss,
        bi_tempered,
        bi_tempered_soft,
        True,
        t1=0.2,
        t2=4.0,
    ),
    case(
        "bitempered_log",
        L.bi_tempered,
        L.BiTemperedLoss,
        bi_tempered,
        bi_tempered_soft,
        True,
        t1=1.0,
        t2=1.5,
    ),
    case(
        "bitempered_odd",
        L.bi_tempered,
        L.BiTemperedLoss,
        bi_tempered,
        bi_tempered_soft,
        True,
        t1=0.45,
        t2=1.37,
    ),
    case("js", L.jensen_shannon, L.JensenShannonLoss, js, js_soft),
    case("js_ce", L.jensen_shannon, L.JensenShannonLoss, js, js_soft, weights=(0.1, 0.9)),
    case("dot", L.etf_dot, L.ETFDotLoss, dot, of_logits=True, target_logit=4.0),
]
