"""How a study is declared, run, kept, reported and compared; here are the words a study module needs."""

from evidentia.studies.harness.declare.config import StudyConfig as StudyConfig
from evidentia.studies.harness.declare.points import Budget as Budget
from evidentia.studies.harness.declare.points import Ref as Ref
from evidentia.studies.harness.declare.registry import register_study as register_study
from evidentia.studies.harness.declare.result import Result as Result
from evidentia.studies.harness.declare.study import Claim as Claim
from evidentia.studies.harness.declare.study import Study as Study
from evidentia.studies.harness.main import run_as_main as run_as_main
from evidentia.studies.harness.search.spec import Choice as Choice
from evidentia.studies.harness.search.spec import Float as Float
from evidentia.studies.harness.search.spec import Int as Int
from evidentia.studies.harness.search.spec import SearchSpec as SearchSpec
