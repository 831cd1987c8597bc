from collections import Counter
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from script_runner import Runner
from test_model import KernelMachine
import pytest
from test_negative_controls import MUTANTS, mutated
class R(Runner):
    c=Counter()
    def run(self,name,*a,**k):
        r=super().run(name,*a,**k); self.c[name,r[0]]+=1; return r
def test_p(redis_url):
    runner = R(redis_url)
    class M(KernelMachine): pass
    M.runner=runner
    run_state_machine_as_test(M, settings=settings(max_examples=100, stateful_step_count=40, phases=[Phase.generate], deadline=None, database=None, suppress_health_check=list(HealthCheck)))
    for k,v in sorted(R.c.items()): print(k,v)
@pytest.mark.parametrize("name", MUTANTS)
def test_q(redis_url, name):
    runner = Runner(redis_url)
    c = mutated(MUTANTS[name]); runner.scripts[c.name]=c
    class M(KernelMachine): pass
    M.runner=runner
    with pytest.raises(AssertionError):
        run_state_machine_as_test(M, settings=settings(max_examples=200, stateful_step_count=40, phases=[Phase.generate], report_multiple_bugs=False, deadline=None, database=None, suppress_health_check=list(HealthCheck)))
