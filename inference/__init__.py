"""How belief is updated: fitting, sampling, evidence, structure selection, diagnostics."""

from evidentia.inference.diagnostics import to_idata as to_idata
from evidentia.inference.evidence.comparison import compare_evidence as compare_evidence
from evidentia.inference.evidence.log_evidence import LogEvidence as LogEvidence
from evidentia.inference.fit import fit as fit
from evidentia.inference.mcmc.nuts import nuts as nuts
from evidentia.inference.structure.enumerate import enumerate_structures as enumerate_structures
from evidentia.inference.structure.export import export as export
from evidentia.inference.structure.gibbs import structure_gibbs as structure_gibbs
from evidentia.inference.structure.linear import predict as predict
from evidentia.inference.structure.networks import network_evidence as network_evidence
from evidentia.inference.structure.posterior import StructurePosterior as StructurePosterior
from evidentia.inference.training.fitted import Fit as Fit
